using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>A merge in guarded memory, and its oracle. Some rows of some parts, and one row of all parts, hold no visible key.</summary>
internal sealed unsafe class MergeProblem : IDisposable
{
    private const double U = 1.0 / (1 << 24);

    private const int Rows = 2 * 5 * 3;

    private readonly TestDevice device;
    private readonly long[] sizes;
    private readonly int parts;
    private readonly ElementFormat partFormat;
    private readonly ElementFormat format;
    private readonly bool gradLse;
    private readonly List<GuardedBlock> blocks = [];
    private readonly double[][] partO;
    private readonly double[][] partLse;
    private readonly double[] gradO;
    private readonly double[] gradLseValues;
    private readonly TensorBuffer[] partOs;
    private readonly TensorBuffer[] partLses;
    private readonly TensorBuffer[] gradPartOs;
    private readonly TensorBuffer[] gradPartLses;
    private readonly TensorBuffer o;
    private readonly TensorBuffer lse;
    private readonly TensorBuffer gradOs;
    private readonly TensorBuffer gradLses;

    public MergeProblem(TestDevice device, int parts, ElementFormat partFormat, ElementFormat format, bool gradLse)
    {
        (this.device, this.parts, this.partFormat, this.format, this.gradLse) = (device, parts, partFormat, format, gradLse);
        // Whole pieces of 16 bytes, none, and more columns than a warp takes at a time.
        sizes = [2, 5, 3, parts switch { 2 => 7, 3 => 520, _ => 8 }];
        var random = new GaussianSource(parts * 100 + partFormat.Code * 10 + format.Code);
        partO = Enumerable.Range(0, parts).Select(_ => Fill(Rows * Width, () => partFormat.Round(random.Next()))).ToArray();
        partLse = Enumerable.Range(0, parts).Select(_ => Fill(Rows, () => (float)(4 * random.Next()))).ToArray();
        gradO = Fill(Rows * Width, () => format.Round(random.Next()));
        gradLseValues = Fill(Rows, () => (float)random.Next());
        for (int part = 0; part < parts; part++)
        {
            Empty(part, row: 3);
            Empty(part, row: 5 + part % 7);
        }
        (partOs, partLses) = (Tensors(partFormat), Vectors());
        (gradPartOs, gradPartLses) = (Tensors(partFormat), Vectors());
        (o, lse, gradOs, gradLses) = (Tensor(format), Vector(), Tensor(format), Vector());
        for (int part = 0; part < parts; part++)
        {
            partOs[part].Store(partO[part]);
            partLses[part].Store(partLse[part]);
        }
        gradOs.Store(gradO);
        gradLses.Store(gradLseValues);
    }

    private int Width => (int)sizes[3];

    public fa_status Forward() => Run(backward: false, [o, lse]);

    public fa_status Backward() => Run(backward: true, [.. gradPartOs, .. gradPartLses]);

    public void AssertForward()
    {
        double[] actualO = o.LoadWritten("o");
        double[] actualLse = lse.LoadWritten("lse");
        for (int row = 0; row < Rows; row++)
        {
            double[] weights = Weights(row, out double exactLse);
            AssertNear($"lse[{row}]", actualLse[row], exactLse, 16 * U + ElementFormat.Float32.Ulp(exactLse));
            for (int c = row * Width; c < (row + 1) * Width; c++)
            {
                double exact = Enumerable.Range(0, parts).Sum(part => weights[part] * partO[part][c]);
                double size = Enumerable.Range(0, parts).Sum(part => weights[part] * Math.Abs(partO[part][c]));
                AssertNear($"o[{c}]", actualO[c], exact, 64 * U * size + format.Ulp(exact));
            }
        }
    }

    /// <summary>With weights w = exp(lse of the part - lse): d o of the part = w dO; d lse of the part = w (dO · (o of the part - o) + d lse).</summary>
    public void AssertBackward()
    {
        for (int part = 0; part < parts; part++)
        {
            double[] actualO = gradPartOs[part].LoadWritten("grad_part_o");
            double[] actualLse = gradPartLses[part].LoadWritten("grad_part_lse");
            for (int row = 0; row < Rows; row++)
            {
                double[] weights = Weights(row, out _);
                double gradient = gradLse && weights[part] > 0 ? gradLseValues[row] : 0;
                double size = Math.Abs(gradient);
                double storedError = 0;
                for (int c = row * Width; c < (row + 1) * Width; c++)
                {
                    double merged = Enumerable.Range(0, parts).Sum(each => weights[each] * partO[each][c]);
                    gradient += gradO[c] * (partO[part][c] - merged);
                    size += Math.Abs(gradO[c]) * (Math.Abs(partO[part][c]) + Math.Abs(merged));
                    // The merged o reaches the backward pass rounded to its format.
                    storedError += Math.Abs(gradO[c]) * format.Ulp(merged);
                    double exact = weights[part] * gradO[c];
                    AssertNear($"grad_part_o[{part}][{c}]", actualO[c], exact, 64 * U * Math.Abs(exact) + partFormat.Ulp(exact));
                }
                double allowed = weights[part] * (128 * U * size + storedError) + ElementFormat.Float32.Ulp(weights[part] * gradient);
                AssertNear($"grad_part_lse[{part}][{row}]", actualLse[row], weights[part] * gradient, allowed);
            }
        }
    }

    public void Dispose() => blocks.ForEach(block => block.Dispose());

    private static void AssertNear(string name, double actual, double exact, double allowed)
    {
        bool near = double.IsInfinity(exact) ? actual == exact : Math.Abs(actual - exact) <= allowed;
        Assert.That(near, Is.True, FormattableString.Invariant($"{name}: {actual:R}, exact {exact:R}, allowed error {allowed:E3}"));
    }

    private double[] Weights(int row, out double merged)
    {
        double[] each = partLse.Select(values => values[row]).ToArray();
        double max = each.Max();
        merged = double.IsNegativeInfinity(max) ? max : max + Math.Log(each.Sum(value => Math.Exp(value - max)));
        double lseOfAll = merged;
        return double.IsNegativeInfinity(merged) ? new double[parts] : Array.ConvertAll(each, value => Math.Exp(value - lseOfAll));
    }

    private void Empty(int part, int row)
    {
        partLse[part][row] = double.NegativeInfinity;
        partO[part].AsSpan(row * Width, Width).Clear();
    }

    private fa_status Run(bool backward, TensorBuffer[] outputs)
    {
        var call = new fa_merge_params
        {
            struct_size = (uint)sizeof(fa_merge_params),
            parts = parts,
            device = device.Handle,
            o = o.Native,
            lse = (float*)lse.Native.data,
        };
        for (int part = 0; part < parts; part++)
        {
            call.part_o[part] = partOs[part].Native;
            call.part_lse[part] = (nint)partLses[part].Native.data;
            if (backward)
            {
                call.grad_part_o[part] = gradPartOs[part].Native;
                call.grad_part_lse[part] = (nint)gradPartLses[part].Native.data;
            }
        }
        if (backward)
        {
            call.grad_o = gradOs.Native;
            call.grad_lse = gradLse ? (float*)gradLses.Native.data : null;
        }
        Array.ForEach(outputs, output => output.Poison());
        blocks.ForEach(block => block.BeforeCall());
        fa_status status = backward ? NativeMethods.fa_attention_merge_backward(&call) : NativeMethods.fa_attention_merge(&call);
        NativeCall.Check(NativeMethods.fa_device_synchronize(device.Handle));
        blocks.ForEach(block => block.AfterCall());
        blocks.ForEach(block => block.AssertNothingElseWritten("merge", status == fa_status.FA_STATUS_OK ? outputs : []));
        return status;
    }

    private TensorBuffer[] Tensors(ElementFormat of) =>
        Enumerable.Range(0, parts).Select(part => Tensor(of, part % 2 == 0 ? Layout.Padded : Layout.Bhsd)).ToArray();

    private TensorBuffer[] Vectors() => Enumerable.Range(0, parts).Select(_ => Vector()).ToArray();

    private TensorBuffer Tensor(ElementFormat of, Layout layout = Layout.Bshd) => TensorStorage.Allocate(device, of, sizes, layout, blocks);

    private TensorBuffer Vector() =>
        TensorStorage.Allocate(device, ElementFormat.Float32, [sizes[0], sizes[1], sizes[2], 1], [sizes[1] * sizes[2], 1, sizes[1], 1], 0, blocks);

    private static double[] Fill(int count, Func<double> value) => Enumerable.Range(0, count).Select(_ => value()).ToArray();
}
