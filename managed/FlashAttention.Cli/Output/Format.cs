using System.Globalization;

namespace FlashAttention.Cli.Output;

/// <summary>Numbers for people.</summary>
internal static class Format
{
    private static readonly string[] BinaryPrefixes = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    private static readonly string[] DecimalPrefixes = ["", " K", " M", " G", " T", " P", " E"];

    /// <summary>Bytes with a binary prefix, e.g. "16.8 MiB"; "0" for nothing.</summary>
    public static string Bytes(double bytes)
    {
        if (bytes == 0)
        {
            return "0";
        }
        int prefix = 0;
        while (bytes >= 1024 && prefix < BinaryPrefixes.Length - 1)
        {
            bytes /= 1024;
            prefix++;
        }
        return $"{Digits(bytes)} {BinaryPrefixes[prefix]}";
    }

    /// <summary>A count with a decimal prefix, e.g. "4.29 G".</summary>
    public static string Count(double count)
    {
        int prefix = 0;
        while (count >= 1000 && prefix < DecimalPrefixes.Length - 1)
        {
            count /= 1000;
            prefix++;
        }
        return $"{Digits(count)}{DecimalPrefixes[prefix]}";
    }

    /// <summary>A time in seconds with a fitting unit.</summary>
    public static string Time(double seconds) => seconds switch
    {
        0 => "0",
        < 1e-3 => $"{Digits(seconds * 1e6)} us",
        < 1 => $"{Digits(seconds * 1e3)} ms",
        _ => $"{Digits(seconds)} s",
    };

    /// <summary>An error: one digit after the point, scientific.</summary>
    public static string Error(double error) => error == 0 ? "0" : error.ToString("0.0e-00", CultureInfo.InvariantCulture);

    /// <summary>Three significant digits, never scientific for ordinary sizes.</summary>
    public static string Digits(double value) => value switch
    {
        0 => "0",
        >= 100 => value.ToString("0", CultureInfo.InvariantCulture),
        >= 10 => value.ToString("0.0", CultureInfo.InvariantCulture),
        >= 0.01 => value.ToString("0.00", CultureInfo.InvariantCulture),
        _ => value.ToString("0.0e-0", CultureInfo.InvariantCulture),
    };

    /// <summary>"1 launch", "2 launches": a count and its word, which takes <paramref name="plural"/> unless the count is 1.</summary>
    public static string Plural(long count, string word, string plural = "s") => $"{Integer(count)} {word}{(count == 1 ? string.Empty : plural)}";

    /// <summary>A message of the library without the C function's name in front, which says nothing at a terminal.</summary>
    public static string Message(string text)
    {
        int colon = text.IndexOf(": ", StringComparison.Ordinal);
        return colon > 0 && text.StartsWith("fa_", StringComparison.Ordinal) && !text.AsSpan(0, colon).Contains(' ') ? text[(colon + 2)..] : text;
    }

    public static string Integer(long value) => value.ToString("N0", CultureInfo.InvariantCulture).Replace(',', ' ');
}
