using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashAttention.BindingGenerator.Abi;
using FlashAttention.BindingGenerator.Clang;
using FlashAttention.BindingGenerator.Model;
using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>The product's own bindings: up to date, and laid out by the runtime as the C compiler lays out the headers.</summary>
internal sealed class CommittedOutputTests
{
    private const string Namespace = "FlashAttention.Interop";

    private CApi _api = null!;
    private ProbedValues _probed = null!;

    [OneTimeSetUp]
    public void Probe()
    {
        HeaderSet headers = new(new RepositoryPaths(SampleWorkspace.RepositoryRoot).Header);
        _api = HeaderParser.Parse(headers);
        _probed = CompilerProbe.Run(_api, headers);
    }

    [Test]
    public void VerifyFindsNoDifference()
    {
        RepositoryPaths paths = new(SampleWorkspace.RepositoryRoot);
        using StringWriter output = new();
        int exitCode = Program.Run(["verify", "--header", paths.Header, "--output", paths.Output, "--baseline", paths.Baseline], output, output);
        Assert.That(exitCode, Is.Zero, output.ToString());
    }

    [Test]
    public void StructsAreLaidOutAsInC()
    {
        Assert.That(_api.Structs, Is.Not.Empty);
        Assert.Multiple(() =>
        {
            foreach (CStruct s in _api.Structs)
            {
                Type type = FindType(s.Name);
                (int size, int alignment) = _probed.Structs[s.Name];
                Assert.That(MeasureSize(type), Is.EqualTo(size), $"size of {s.Name}");
                Assert.That(MeasureAlignment(type), Is.EqualTo(alignment), $"alignment of {s.Name}");
                Assert.That(FieldNames(type), Is.EqualTo(s.Fields.Select(field => field.Name)), $"fields of {s.Name}");
                foreach (CField field in s.Fields)
                {
                    ProbedField expected = _probed.Fields[(s.Name, field.Name)];
                    Assert.That((int)Marshal.OffsetOf(type, field.Name), Is.EqualTo(expected.Offset), $"offset of {s.Name}.{field.Name}");
                    Assert.That(MeasureSize(type.GetField(field.Name)!.FieldType), Is.EqualTo(expected.Size), $"size of {s.Name}.{field.Name}");
                }
            }
        });
    }

    [Test]
    public void StructsAreBlittable()
    {
        MethodInfo check = typeof(RuntimeHelpers).GetMethod(nameof(RuntimeHelpers.IsReferenceOrContainsReferences))!;
        Assert.Multiple(() =>
        {
            foreach (CStruct s in _api.Structs)
            {
                Assert.That(check.MakeGenericMethod(FindType(s.Name)).Invoke(null, null), Is.False, s.Name);
            }

            Assert.That(typeof(CommittedOutputTests).Assembly.IsDefined(typeof(DisableRuntimeMarshallingAttribute)), Is.True);
        });
    }

    [Test]
    public void EnumsHaveTheWidthAndValuesOfC()
    {
        Assert.That(_api.Enums, Is.Not.Empty);
        Assert.Multiple(() =>
        {
            foreach (CEnum e in _api.Enums)
            {
                Type type = FindType(e.Name);
                Assert.That(MeasureSize(type), Is.EqualTo(_probed.Enums[e.Name].Size), e.Name);
                Assert.That(Enum.GetNames(type), Is.EquivalentTo(e.Members.Select(member => member.Name)), e.Name);
                foreach (string name in Enum.GetNames(type))
                {
                    Assert.That(Convert.ToInt64(Enum.Parse(type, name)), Is.EqualTo(_probed.Values[name]), name);
                }
            }
        });
    }

    [Test]
    public void ConstantsHaveTheValuesOfC()
    {
        FieldInfo[] constants = FindType("NativeConstants").GetFields(BindingFlags.Static | BindingFlags.NonPublic);
        Assert.That(constants.Select(constant => constant.Name), Is.SupersetOf((string[])["FA_ABI_VERSION", "FA_TENSOR_RANK", "FA_VERSION_MAJOR"]));
        Assert.Multiple(() =>
        {
            foreach (FieldInfo constant in constants)
            {
                Assert.That(Convert.ToInt64(constant.GetRawConstantValue()), Is.EqualTo(_probed.Values[constant.Name]), constant.Name);
            }
        });
    }

    [Test]
    public void EveryFunctionIsImportedWithAsManyParametersOfTheSameSize()
    {
        Type methods = FindType("NativeMethods");
        TypeMapper types = new(_api);
        Assert.Multiple(() =>
        {
            foreach (CFunction function in _api.Functions)
            {
                MethodInfo? method = methods.GetMethod(function.Name, BindingFlags.Static | BindingFlags.NonPublic);
                Assert.That(method, Is.Not.Null, function.Name);
                IEnumerable<int> expected = function.Parameters.Select(parameter => types.Measure(parameter.Type, function.Location, parameter.Name).Size);
                Assert.That(method!.GetParameters().Select(parameter => MeasureSize(parameter.ParameterType)), Is.EqualTo(expected), function.Name);
            }
        });
    }

    private static Type FindType(string name) =>
        typeof(CommittedOutputTests).Assembly.GetType($"{Namespace}.{name}") ?? throw new AssertionException($"there is no type {Namespace}.{name}");

    private static IEnumerable<string> FieldNames(Type type) =>
        type.GetFields(BindingFlags.Instance | BindingFlags.Public).OrderBy(field => field.MetadataToken).Select(field => field.Name);

    private static int MeasureSize(Type type) =>
        type.IsPointer
            ? IntPtr.Size
            : (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;

    /// <summary>The offset the runtime gives a field of the type that follows a single byte.</summary>
    private static int MeasureAlignment(Type type) => (int)Marshal.OffsetOf(typeof(AfterByte<>).MakeGenericType(type), "Value");

#pragma warning disable CS0649 // Only the layout matters.
    [StructLayout(LayoutKind.Sequential)]
    internal struct AfterByte<T>
        where T : unmanaged
    {
        public byte First;
        public T Value;
    }
}
