using System.Globalization;
using System.Net;
using System.Text;

namespace FlashAttention.Cli.Output;

/// <summary>Draws TFLOP/s over the sequence length, one line per pass, type, mask and head dimension, as an SVG that needs nothing else.</summary>
internal static class SvgPlot
{
    private const double Width = 960, Height = 540, Left = 80, Right = 300, Top = 60, Bottom = 60;

    /// <summary>Colours that stay apart for colour-blind readers (Okabe and Ito, 2008).</summary>
    private static readonly string[] Colours = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A7F00"];

    public static string Draw(BenchReport report)
    {
        var series = report.Cells.Where(cell => cell.Tflops is not null)
            .GroupBy(cell => $"{cell.Pass} {cell.Dtype} d{cell.Dim} {cell.Mask}")
            .Select(group => (Name: group.Key, Points: group.OrderBy(cell => cell.Length).ToArray()))
            .ToArray();
        int[] lengths = [.. series.SelectMany(s => s.Points).Select(cell => cell.Length).Distinct().Order()];
        double top = NiceCeiling(series.SelectMany(s => s.Points).Select(cell => cell.Tflops!.Value).DefaultIfEmpty(1).Max());
        StringBuilder svg = new();
        svg.Append(CultureInfo.InvariantCulture, $"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {Width} {Height}" """)
            .Append("font-family=\"sans-serif\" font-size=\"13\">\n");
        svg.Append("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n");
        Text(svg, Left, 28, "start", $"Attention on {report.DeviceName}", "font-size=\"17\"");
        Text(svg, Left, 46, "start", $"TFLOP/s, median of runs; library {report.LibraryVersion}, {report.Date:yyyy-MM-dd}", "fill=\"#555\"");
        Axes(svg, lengths, top);
        for (int i = 0; i < series.Length; i++)
        {
            string colour = Colours[i % Colours.Length];
            string dash = i / Colours.Length % 2 == 1 ? " stroke-dasharray=\"6 4\"" : string.Empty;
            string points = string.Join(' ', series[i].Points.Select(cell => string.Create(CultureInfo.InvariantCulture,
                $"{X(cell.Length, lengths):0.0},{Y(cell.Tflops!.Value, top):0.0}")));
            svg.Append(CultureInfo.InvariantCulture, $"<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\n");
            foreach (BenchCell cell in series[i].Points)
            {
                svg.Append(CultureInfo.InvariantCulture,
                    $"<circle cx=\"{X(cell.Length, lengths):0.0}\" cy=\"{Y(cell.Tflops!.Value, top):0.0}\" r=\"3\" fill=\"{colour}\"/>\n");
            }
            double y = Top + 10 + i * 20;
            svg.Append(CultureInfo.InvariantCulture,
                $"<line x1=\"{Width - Right + 20}\" y1=\"{y}\" x2=\"{Width - Right + 48}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"3\"{dash}/>\n");
            Text(svg, Width - Right + 56, y + 4, "start", series[i].Name);
        }
        return svg.Append("</svg>\n").ToString();
    }

    private static void Axes(StringBuilder svg, int[] lengths, double top)
    {
        for (int i = 0; i <= 5; i++)
        {
            double value = top * i / 5, y = Y(value, top);
            svg.Append(CultureInfo.InvariantCulture, $"<line x1=\"{Left}\" y1=\"{y:0.0}\" x2=\"{Width - Right}\" y2=\"{y:0.0}\" stroke=\"#ddd\"/>\n");
            Text(svg, Left - 8, y + 4, "end", value.ToString("0.####", CultureInfo.InvariantCulture));
        }
        foreach (int length in lengths)
        {
            Text(svg, X(length, lengths), Height - Bottom + 20, "middle", length.ToString(CultureInfo.InvariantCulture));
        }
        Text(svg, (Left + Width - Right) / 2, Height - 16, "middle", "sequence length");
    }

    private static void Text(StringBuilder svg, double x, double y, string anchor, string text, string attributes = "") =>
        svg.Append(CultureInfo.InvariantCulture,
            $"<text x=\"{x:0.0}\" y=\"{y:0.0}\" text-anchor=\"{anchor}\" {attributes}>{WebUtility.HtmlEncode(text)}</text>\n");

    /// <summary>Lengths are spread by their logarithm.</summary>
    private static double X(int length, int[] lengths) => lengths.Length < 2
        ? (Left + Width - Right) / 2
        : Left + 20 + (Width - Right - Left - 40) * Math.Log((double)length / lengths[0]) / Math.Log((double)lengths[^1] / lengths[0]);

    private static double Y(double value, double top) => Height - Bottom - (Height - Top - Bottom) * value / top;

    /// <summary>The next 1, 2 or 5 times a power of ten.</summary>
    private static double NiceCeiling(double value)
    {
        double power = Math.Pow(10, Math.Floor(Math.Log10(Math.Max(value, 1e-9))));
        return new[] { 1, 2, 5, 10 }.Select(step => step * power).First(step => step >= value * 0.999999);
    }
}
