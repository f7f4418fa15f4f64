using System.Globalization;

namespace FlashAttention.Peers;

/// <summary>The command line.</summary>
internal sealed class Arguments
{
    public TensorLayout Layout { get; private set; } = TensorLayout.BatchSequenceHeads;

    public int Threads { get; private set; } = 2;

    public int Rounds { get; private set; } = 5;

    public List<(int Length, int HeadDim)> Cases { get; } = [];

    public static Arguments? Parse(string[] args, out string error)
    {
        Arguments parsed = new();
        error = "";
        for (int i = 0; i < args.Length; i += 2)
        {
            string value = i + 1 < args.Length ? args[i + 1] : "";
            if (!parsed.Set(args[i], value))
            {
                error = $"{args[i]} {value}: expected --layout bshd|bhsd, --threads N, --rounds N or --case LENGTHxHEADDIM";
                return null;
            }
        }

        if (parsed.Cases.Count == 0)
        {
            parsed.Cases.AddRange([(2048, 128), (4096, 64)]);
        }

        return parsed;
    }

    private bool Set(string name, string value)
    {
        switch (name)
        {
            case "--layout" when value is "bshd" or "bhsd":
                Layout = value == "bshd" ? TensorLayout.BatchSequenceHeads : TensorLayout.BatchHeadsSequence;
                return true;
            case "--threads" when IsCount(value, out int threads):
                Threads = threads;
                return true;
            case "--rounds" when IsCount(value, out int rounds):
                Rounds = rounds;
                return true;
            case "--case" when value.Split('x') is [string length, string headDim] && IsCount(length, out int s) && IsCount(headDim, out int d):
                Cases.Add((s, d));
                return true;
            default:
                return false;
        }
    }

    private static bool IsCount(string text, out int count) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out count) && count > 0;
}
