using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Numerics;
using System.Reflection;
using CommandLine;

namespace FlashAttention.Cli.Options;

/// <summary>Finds what CommandLineParser passes over in silence or reports without the value: a word that belongs to no option, a missing value, a switch
/// with a value, a text where a number is expected.</summary>
internal static class ArgumentCheck
{
    private sealed record Known(string Name, Type Type)
    {
        /// <summary>Type of one value; null for a switch.</summary>
        public Type? Value => Type == typeof(bool) ? null : Nullable.GetUnderlyingType(Type) ?? (Type.IsGenericType ? Type.GetGenericArguments()[0] : Type);

        public bool IsList => Type.IsGenericType && Nullable.GetUnderlyingType(Type) is null;
    }

    /// <summary>Checks the words after the command. Unknown and repeated options are left to the parser.</summary>
    /// <param name="verb">The option class of the command.</param>
    /// <param name="words">The words, "--q" and the like already as long names.</param>
    public static void Check(Type verb, ReadOnlySpan<string> words)
    {
        Dictionary<string, Known> options = Options(verb);
        for (int i = 0; i < words.Length; i++)
        {
            string word = words[i];
            if (!word.StartsWith('-'))
            {
                throw CliException.Usage($"unexpected argument '{word}'");
            }
            int equals = word.IndexOf('=');
            if (!options.TryGetValue(equals < 0 ? word : word[..equals], out Known? option))
            {
                return;
            }
            if (option.Value is null)
            {
                if (equals >= 0)
                {
                    throw CliException.Usage($"option {option.Name} takes no value, got '{word[(equals + 1)..]}'");
                }
                continue;
            }
            if (equals < 0 && (++i == words.Length || words[i].StartsWith("--", StringComparison.Ordinal)))
            {
                throw CliException.Usage($"option {option.Name} needs a value");
            }
            string value = equals < 0 ? words[i] : word[(equals + 1)..];
            foreach (string part in option.IsList ? value.Split(',') : [value])
            {
                CheckValue(option, part);
            }
        }
    }

    [UnconditionalSuppressMessage("Trimming", "IL2070", Justification = "The option classes are kept whole by the attributes of CommandLineApp.Parse.")]
    private static Dictionary<string, Known> Options(Type verb)
    {
        Dictionary<string, Known> options = [];
        foreach (PropertyInfo property in verb.GetProperties())
        {
            if (property.GetCustomAttribute<OptionAttribute>() is not { } option)
            {
                continue;
            }
            bool hasShort = option.ShortName.Length > 0;
            Known known = new($"--{(hasShort ? option.ShortName : option.LongName)}", property.PropertyType);
            options.Add($"--{option.LongName}", known);
            if (hasShort)
            {
                options.Add($"-{option.ShortName}", known);
            }
        }
        return options;
    }

    private static void CheckValue(Known option, string text)
    {
        string? expected = option.Value switch
        {
            Type type when type == typeof(int) => Whole(int.MinValue, int.MaxValue),
            Type type when type == typeof(long) => Whole(long.MinValue, long.MaxValue),
            Type type when type == typeof(float) || type == typeof(double) =>
                double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out _) ? null : "a number",
            _ => null,
        };
        if (expected is not null)
        {
            throw CliException.Usage($"{option.Name}: expected {expected}{(option.IsList ? " (or several with commas between)" : string.Empty)}, got '{text}'");
        }

        string? Whole(long minimum, long maximum) => !BigInteger.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture,
            out BigInteger number) ? "a whole number" : number < minimum || number > maximum ? $"a whole number from {minimum} to {maximum}" : null;
    }
}
