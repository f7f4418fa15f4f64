using System.Text.RegularExpressions;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Every bad call is refused with its own message and writes nothing.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class ContractTests(TestDevice device) : DeviceFixture(device)
{
    /// <summary>The table of bad calls.</summary>
    public static IReadOnlyList<BadCall> Calls { get; } =
    [
        .. BadForwardCalls.All(), .. BadBackwardCalls.All(), .. BadDescribeCalls.All(), .. BadDeviceCalls.All(), .. BadVariantCalls.All(),
        .. BadOperationCalls.All(),
    ];

    [TestCaseSource(nameof(Calls))]
    public void BadCallIsRefusedAndWritesNothing(BadCall bad)
    {
        if (!IsBadHere(bad))
        {
            Assert.Ignore($"Only wrong on {bad.OnlyOn}.");
        }
        using var world = new CallWorld(Device);
        fa_status status = bad.Make(world);
        string message = NativeCall.LastMessage;
        TestContext.Out.WriteLine(message);

        Assert.That(status, Is.EqualTo((fa_status)bad.Status), message);
        foreach (string part in bad.Parts)
        {
            Assert.That(message, Does.Match($@"(?<![A-Za-z_]){Regex.Escape(part)}").IgnoreCase);
        }
        world.AssertNothingWritten();
    }

    [Test]
    public void EveryBadCallHasItsOwnMessage()
    {
        BadCall[] calls = Calls.Where(IsBadHere).ToArray();
        using var world = new CallWorld(Device);
        var names = new Dictionary<string, List<string>>();
        foreach (BadCall bad in calls)
        {
            bad.Make(world);
            // Addresses are part of what came; the allocator may hand out one of them twice.
            string message = Regex.Replace(NativeCall.LastMessage, "0x[0-9a-f]{8,}", "<address>");
            if (!names.TryAdd(message, [bad.Name]))
            {
                names[message].Add(bad.Name);
            }
        }
        TestContext.Out.WriteLine($"{calls.Length} bad calls, {names.Count} messages without their addresses");
        // Only the four ways to free what is no live block (foreign, freed, inside a block, host memory) differ in nothing but the address.
        foreach ((string message, List<string> same) in names.Where(pair => pair.Value.Count > 1))
        {
            Assert.That(message, Does.StartWith("fa_memory_free: pointer"), $"{string.Join(", ", same)} give the same message");
            Assert.That(same, Has.Count.LessThanOrEqualTo(4), message);
        }
    }

    [Test]
    public void ANewerCallersUnknownFieldsMustBeZero()
    {
        using var world = new CallWorld(Device);
        Assert.That(ForwardWithLongerStruct(world, 0, out string message), Is.EqualTo(fa_status.FA_STATUS_OK), message);
        Assert.That(ForwardWithLongerStruct(world, 1, out message), Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED), message);
        Assert.That(message, Does.Contain("newer library"));
    }

    [Test]
    public void MessagesBelongToTheThread()
    {
        NativeMethods.fa_cpu_set_num_threads(-1);
        string mine = NativeCall.LastMessage;
        string theirs = "not run";
        var thread = new Thread(() =>
        {
            string before = NativeCall.LastMessage;
            NativeMethods.fa_cpu_set_num_threads(2000);
            theirs = before + "|" + NativeCall.LastMessage;
        });
        thread.Start();
        thread.Join();
        Assert.Multiple(() =>
        {
            Assert.That(theirs, Does.StartWith("|").And.Contain("2000"));
            Assert.That(NativeCall.LastMessage, Is.EqualTo(mine));
        });
    }

    private bool IsBadHere(BadCall bad) => bad.OnlyOn is null || bad.OnlyOn == Device.Name;

    private static unsafe fa_status ForwardWithLongerStruct(CallWorld world, byte trailing, out string message)
    {
        var status = fa_status.FA_STATUS_INTERNAL_ERROR;
        world.ForwardWith((ref p) =>
        {
            byte* longer = stackalloc byte[sizeof(fa_forward_params) + 16];
            new Span<byte>(longer, sizeof(fa_forward_params) + 16).Clear();
            *(fa_forward_params*)longer = p;
            *(uint*)longer += 16;
            longer[sizeof(fa_forward_params) + 9] = trailing;
            status = NativeMethods.fa_attention_forward((fa_forward_params*)longer);
        });
        message = NativeCall.LastMessage;
        return status;
    }
}
