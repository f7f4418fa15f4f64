using System.Text.RegularExpressions;
using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>
/// The support tables of the README, cell by cell, against the planner: every variant alone and with every other one, in both passes and every element type,
/// on the CPU, on a GPU of compute capability 8.0 and on Hopper. A cell that is not in the tables here, a problem that is refused though the table has it, and
/// one that is computed though the table has not, fail; so does a refusal whose message does not name what it is about. None of it needs a GPU.
/// </summary>
[TestFixture]
public sealed class SupportTableTests
{
    private static readonly ElementFormat[] Formats = [ElementFormat.Float32, ElementFormat.Float16, ElementFormat.BFloat16];

    private static readonly (int D, int Dv)[] HeadDims = [(5, 3), (64, 64), (40, 72), (128, 128), (192, 128), (256, 256), (264, 8), (512, 512)];

    private static readonly (int D, int Dv)[] HeadDimsOfPairs = [(64, 64), (72, 128), (192, 64), (264, 256)];

    /// <summary>What a message calls each factor of the variant table, and the beginning of its line in the README.</summary>
    private static readonly Dictionary<string, (string Word, string Line)> Factors = new()
    {
        ["window"] = ("window", "sliding window"),
        ["chunk"] = ("chunks", "attention chunks"),
        ["softcap"] = ("softcap", "softcap"),
        ["alibi"] = ("ALiBi", "ALiBi slopes"),
        ["bias"] = ("bias", "additive bias"),
        ["visible"] = ("boolean", "boolean mask"),
        ["block"] = ("block mask", "block-sparse mask"),
        ["sinks"] = ("sinks", "attention sinks"),
        ["dropout"] = ("dropout", "dropout"),
        ["sequences"] = ("sequences", "packed, padded, left-padded sequences"),
    };

    /// <summary>Lines of the table for what is not planned as a part of attention: OperationTests and the backward pass of every case.</summary>
    private static readonly string[] OtherLines = ["gradient of lse", "dropout mask by itself", "merge of parts"];

    /// <summary>What each cell of the Hopper column means: the words of a message where the kernels of sm90 do not compute it; none where they do.</summary>
    private static readonly Dictionary<string, Func<Ask, IEnumerable<string[]>>> HopperCells = new()
    {
        ["yes; backward up to head_dim 128"] = BackwardUpTo128,
        ["yes, and their gradient; backward up to head_dim 128"] = BackwardUpTo128,
        ["of 16 bits, a row for every query, rows of whole 16 bytes, alone or with windows, chunks, sinks and (forward only) sequences; and its gradient; up "
            + "to head_dim 128; else by the portable kernels"] = ask =>
        [
            .. UpTo128(ask, "bias"),
            .. NotWith(ask, "bias", ask.Backward ? ["window", "chunk", "sinks"] : ["window", "chunk", "sinks", "sequences"]),
            .. !ask.BiasInTiles || ask.Variants.Bias is PairShape.Keys or PairShape.HeadKeys ? [["bias"]] : Array.Empty<string[]>(),
        ],
        ["alone or with windows, chunks and sinks; up to head_dim 128, of full sequences; else by the portable kernels"] = ask => Masks(ask, "visible"),
        ["as the boolean mask"] = ask => Masks(ask, "block"),
        ["by the portable kernels"] = _ => [["dropout"]],
    };

    private static readonly Lazy<string> Readme = new(() =>
    {
        using Stream stream = typeof(SupportTableTests).Assembly.GetManifestResourceStream("README.md")!;
        return new StreamReader(stream).ReadToEnd();
    });

    private static readonly Lazy<Dictionary<string, string[]>> Limits = new(() => Table("| | CPU |"));

    private static readonly Lazy<Dictionary<string, string[]>> Lines = new(() => Table("| variant |"));

    /// <summary>Cells of the lines of the table whose head line begins so, by their first cells.</summary>
    private static Dictionary<string, string[]> Table(string head)
    {
        string[] lines = Readme.Value.Split('\n');
        int at = Array.FindIndex(lines, line => line.StartsWith(head, StringComparison.Ordinal));
        Assert.That(at, Is.GreaterThan(0), $"no table that begins '{head}'");
        return lines.Skip(at + 2).TakeWhile(line => line.StartsWith('|')).Select(line => line.Trim().Trim('|').Split('|').Select(cell => cell.Trim()).ToArray())
            .ToDictionary(cells => cells[0], cells => cells[1..]);
    }

    private static string[] LineOf(string factor) => Lines.Value.Single(line => IsOf(line.Key, Factors[factor].Line)).Value;

    /// <summary>Whether a line's first cell is a name, or begins with it and says more.</summary>
    private static bool IsOf(string cell, string name) => Regex.IsMatch(cell, $@"^{Regex.Escape(name)}($|,| \()");

    [Test]
    public void EveryVariantHasALine()
    {
        Assert.That(VariantTable.Factors.Select(factor => factor.Name), Is.EquivalentTo(Factors.Keys));
        string[] known = [.. Factors.Values.Select(factor => factor.Line), .. OtherLines];
        Assert.That(Lines.Value.Keys.Where(line => !known.Any(name => IsOf(line, name))), Is.Empty, "lines that nothing tests");
        Assert.That(known.Where(name => !Lines.Value.Keys.Any(line => IsOf(line, name))), Is.Empty, "lines that are missing");
    }

    /// <summary>The limits that the tests below take for granted stand in the README.</summary>
    [Test]
    public void LimitsAreStated()
    {
        Dictionary<string, string[]> table = Limits.Value;
        Assert.Multiple(() =>
        {
            Assert.That(table["element types"], Is.EqualTo(new[] { "fp32, fp16, bf16", "fp16, bf16", "fp16, bf16" }));
            Assert.That(table["head_dim, head_dim_v"], Is.EqualTo(new[]
            {
                "1 to 512, may differ",
                "multiples of 8 up to 512 (with variants 256), may differ",
                "multiples of 8 up to 256, padded to 64, 128, 192 or 256 (with variants 64, 128 or 256); above by the portable kernels",
            }));
            Assert.That(table["deterministic backward"][2], Is.EqualTo("with `Deterministic`; with variants by the portable kernels"));
            Assert.That(Readme.Value, Does.Contain("softcap together with ALiBi, deterministic gradients of problems with variants"));
            foreach (string factor in Factors.Keys)
            {
                string[] cells = LineOf(factor);
                Assert.That(cells[1], Is.EqualTo("yes"), $"{factor}: CPU forward");
                Assert.That(cells[2], Does.StartWith("yes"), $"{factor}: CPU backward");
                Assert.That(cells[3], Does.StartWith("yes"), $"{factor}: portable CUDA");
            }
        });
    }

    /// <summary>Of the sizes that a kernel may take, those beyond are refused by number.</summary>
    [TestCase(1L << 30, 128, 1, 90, "1073741823")]
    [TestCase(128, 1L << 30, 1, 80, "1073741823")]
    [TestCase(1L << 29, 128, 1 << 10, 80, "2147483647")]
    public void LengthsBeyondTheTableAreRefused(long lenQ, long lenKv, int batch, int capability, string part)
    {
        Assert.That(Limits.Value["len_q, len_kv"][1], Is.EqualTo("below 2³⁰; at most 2³¹ − 1 blocks"));
        ProblemCase problem = Base() with { LenQ = (int)lenQ, LenKv = (int)lenKv, Batch = batch };
        fa_status status = PlanQuery.Try(problem, fa_pass.FA_PASS_FORWARD, TestDevice.Cuda.Handle, out _, capability, kernel: fa_kernel.FA_KERNEL_SM80);
        Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED));
        Assert.That(NativeCall.LastMessage, Does.Contain(part));
    }

    public static IEnumerable<string> Alone() => VariantTable.Factors.Select(factor => factor.Name);

    /// <summary>Every setting of a variant.</summary>
    [TestCaseSource(nameof(Alone))]
    public void AVariantIsComputedWhereTheTableSaysSo(string factor)
    {
        foreach (Variants variants in VariantTable.Factors.Single(f => f.Name == factor).Settings)
        {
            CheckEverywhere(variants, HeadDims);
        }
    }

    public static IEnumerable<TestCaseData> Pairs() =>
        from first in VariantTable.Factors
        from second in VariantTable.Factors
        where string.CompareOrdinal(first.Name, second.Name) < 0
        select new TestCaseData(first.Name, second.Name);

    /// <summary>Two variants at a time: the first and the last setting of each.</summary>
    [TestCaseSource(nameof(Pairs))]
    public void TwoVariantsAreComputedWhereTheTableSaysSo(string first, string second)
    {
        foreach (Func<Variants, Variants> one in VariantTable.Ends(first))
        {
            foreach (Func<Variants, Variants> other in VariantTable.Ends(second))
            {
                CheckEverywhere(other(one(Variants.None)), HeadDimsOfPairs);
            }
        }
    }

    [Test]
    public void PlainProblemsAreComputedWhereTheTableSaysSo() => CheckEverywhere(Variants.None, HeadDims);

    private static ProblemCase Base() => new()
    {
        Format = ElementFormat.Float16,
        Batch = 1,
        HeadsQ = 2,
        HeadsKv = 1,
        LenQ = 16,
        LenKv = 32,
        HeadDim = 64,
        HeadDimV = 64,
        Mask = MaskKind.TopLeft,
    };

    private static void CheckEverywhere(Variants variants, (int D, int Dv)[] headDims)
    {
        foreach (ElementFormat format in Formats)
        {
            foreach ((int d, int dv) in headDims)
            {
                ProblemCase problem = Base() with { Format = format, HeadDim = d, HeadDimV = dv, Variants = variants };
                AttentionInputs inputs = AttentionInputs.Create(problem);
                using var call = new AttentionCall(TestDevice.Cpu, problem, inputs);
                // Of packed sequences the longest decides how long rows of a bias are.
                bool wholeRows = !variants.IsPacked || inputs.Extra.Columns % 8 == 0;
                foreach (fa_pass pass in Enum.GetValues<fa_pass>())
                {
                    CheckCpu(call, pass, problem);
                    CheckPortable(call, pass, problem);
                    CheckHopper(call, pass, problem, deterministic: false, wholeRows);
                    CheckHopper(call, pass, problem, deterministic: true, wholeRows);
                }
            }
        }
    }

    private static void CheckCpu(AttentionCall call, fa_pass pass, ProblemCase problem)
    {
        fa_status status = call.Describe(pass, out fa_plan_description plan);
        Assert.That((status, plan.kernel), Is.EqualTo((fa_status.FA_STATUS_OK, fa_kernel.FA_KERNEL_CPU)), $"{problem} {pass}: {NativeCall.LastMessage}");
    }

    private static void CheckPortable(AttentionCall call, fa_pass pass, ProblemCase problem)
    {
        string[][] causes = [.. CudaCauses(problem)];
        foreach (int capability in new[] { 80, 90 })
        {
            fa_kernel kernel = capability == 80 ? fa_kernel.FA_KERNEL_AUTO : fa_kernel.FA_KERNEL_SM80;
            Judge(call.Describe(pass, out fa_plan_description plan, capability, kernel), plan, fa_kernel.FA_KERNEL_SM80, causes, $"{problem} {pass} sm80");
        }
    }

    /// <summary>What the Hopper kernels compute, they are chosen for; otherwise the portable ones, and asking for the Hopper kernels says why not.</summary>
    private static void CheckHopper(AttentionCall call, fa_pass pass, ProblemCase problem, bool deterministic, bool wholeRows)
    {
        string text = $"{problem} {pass}{(deterministic ? " deterministic" : "")} sm90";
        bool biasInTiles = problem.BiasFormat.Bytes == 2 && wholeRows;
        var ask = new Ask(problem.Variants, Math.Max(problem.HeadDim, problem.HeadDimV), pass == fa_pass.FA_PASS_BACKWARD, biasInTiles);
        string[] set = [.. VariantTable.FactorsOf(problem.Variants)];
        List<string[]> causes = [.. CudaCauses(problem), .. set.SelectMany(factor => HopperRule(factor)(ask))];
        if (ask.Dim > 256)
        {
            causes.Add(["at most"]);
        }
        if (set.Contains("softcap") && set.Contains("alibi"))
        {
            causes.Add(["softcap", "ALiBi"]);
        }
        if (deterministic && ask.Backward && set.Length > 0)
        {
            causes.Add(["deterministic", "variants"]);
        }
        fa_status status = call.Describe(pass, out fa_plan_description plan, 90, fa_kernel.FA_KERNEL_SM90, deterministic);
        Judge(status, plan, fa_kernel.FA_KERNEL_SM90, causes, text);
        if (!CudaCauses(problem).Any())
        {
            status = call.Describe(pass, out plan, 90, fa_kernel.FA_KERNEL_AUTO, deterministic);
            fa_kernel expected = causes.Count == 0 ? fa_kernel.FA_KERNEL_SM90 : fa_kernel.FA_KERNEL_SM80;
            Assert.That((status, plan.kernel), Is.EqualTo((fa_status.FA_STATUS_OK, expected)), $"{text}: {NativeCall.LastMessage}");
        }
    }

    private static Func<Ask, IEnumerable<string[]>> HopperRule(string factor)
    {
        string cell = LineOf(factor)[4];
        Assert.That(HopperCells.ContainsKey(cell), Is.True, $"{factor}: what does '{cell}' mean?");
        return HopperCells[cell];
    }

    /// <summary>Why no CUDA kernel computes a problem, each as the words of its message.</summary>
    private static IEnumerable<string[]> CudaCauses(ProblemCase problem)
    {
        int largest = problem.Variants == Variants.None ? 512 : 256;
        if (problem.Format.Bytes != 2)
        {
            yield return ["float32"];
        }
        if (problem.HeadDim % 8 != 0 || problem.HeadDimV % 8 != 0)
        {
            yield return ["multiples of 8"];
        }
        if (Math.Max(problem.HeadDim, problem.HeadDimV) > largest)
        {
            yield return ["at most", "head_dim"];
        }
    }

    /// <summary>Computed by the kernels if there is no cause against it; otherwise refused with a message that has all words of one of the causes.</summary>
    private static void Judge(fa_status status, fa_plan_description plan, fa_kernel kernel, IReadOnlyCollection<string[]> causes, string text)
    {
        if (causes.Count == 0)
        {
            Assert.That((status, plan.kernel), Is.EqualTo((fa_status.FA_STATUS_OK, kernel)), $"{text}: {NativeCall.LastMessage}");
            return;
        }
        Assert.That(status, Is.EqualTo(fa_status.FA_STATUS_UNSUPPORTED), text);
        string message = NativeCall.LastMessage;
        // The sentence repeats the problem in front of the reasons.
        string reasons = Regex.Match(message, @" on \S.*?\((.*)\)$", RegexOptions.Singleline).Groups[1].Value;
        Assert.That(causes.Any(words => words.All(word => reasons.Contains(word, StringComparison.Ordinal))), Is.True,
            $"{text}: '{message}' has not all words of one of: {string.Join("; ", causes.Select(words => string.Join(", ", words)))}");
    }

    private static IEnumerable<string[]> BackwardUpTo128(Ask ask) => ask.Backward && ask.Dim > 128 ? [["at most 128"]] : [];

    private static IEnumerable<string[]> UpTo128(Ask ask, string factor) => ask.Dim > 128 ? [[Factors[factor].Word], ["at most 128"]] : [];

    private static IEnumerable<string[]> Masks(Ask ask, string factor) =>
        [.. UpTo128(ask, factor), .. NotWith(ask, factor, ["window", "chunk", "sinks", "visible", "block"])];

    /// <summary>Both must be named.</summary>
    private static IEnumerable<string[]> NotWith(Ask ask, string factor, string[] allowed) =>
        VariantTable.FactorsOf(ask.Variants).Where(other => other != factor && !allowed.Contains(other))
            .Select(other => new[] { Factors[factor].Word, Factors[other].Word });

    private sealed record Ask(Variants Variants, int Dim, bool Backward, bool BiasInTiles);
}
