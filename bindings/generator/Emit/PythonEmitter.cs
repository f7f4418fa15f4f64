using System.Globalization;
using System.Text;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Emit;

/// <summary>From the model to one Python module of ctypes declarations: constants, structures and a function that declares every prototype.</summary>
internal sealed class PythonEmitter
{
    private static readonly Dictionary<string, string> Scalars = new()
    {
        ["int8_t"] = "c_int8",
        ["signed char"] = "c_int8",
        ["uint8_t"] = "c_uint8",
        ["unsigned char"] = "c_uint8",
        ["char"] = "c_char",
        ["int16_t"] = "c_int16",
        ["short"] = "c_int16",
        ["uint16_t"] = "c_uint16",
        ["unsigned short"] = "c_uint16",
        ["int32_t"] = "c_int32",
        ["int"] = "c_int32",
        ["uint32_t"] = "c_uint32",
        ["unsigned int"] = "c_uint32",
        ["int64_t"] = "c_int64",
        ["long long"] = "c_int64",
        ["uint64_t"] = "c_uint64",
        ["unsigned long long"] = "c_uint64",
        ["size_t"] = "c_size_t",
        ["uintptr_t"] = "c_size_t",
        ["intptr_t"] = "c_ssize_t",
        ["ptrdiff_t"] = "c_ssize_t",
        ["float"] = "c_float",
        ["double"] = "c_double",
    };

    private readonly CApi _api;
    private readonly EmitOptions _options;
    private readonly HashSet<string> _structs;

    private PythonEmitter(CApi api, EmitOptions options)
    {
        _api = api;
        _options = options;
        _structs = [.. api.Structs.Select(s => s.Name)];
    }

    /// <summary>The text of the module.</summary>
    public static string Emit(CApi api, EmitOptions options)
    {
        PythonEmitter emitter = new(api, options);
        StringBuilder text = new();
        emitter.EmitConstants(text);
        emitter.EmitStructs(text);
        emitter.EmitPrototypes(text);
        return text.ToString();
    }

    private void EmitConstants(StringBuilder text)
    {
        string origin = $"ctypes declarations made from {_options.HeaderName} by bindings/generator. Do not edit: change the header and generate again.";
        Line(text, $"\"\"\"{origin}\"\"\"");
        Line(text);
        Line(text, "import ctypes");
        Line(text);
        foreach (CConstant constant in _api.Constants)
        {
            Line(text, $"{constant.Name} = {constant.Value.TrimEnd('u', 'U', 'l', 'L')}");
        }

        foreach (CEnum e in _api.Enums)
        {
            Line(text);
            Line(text, $"# {e.Name}");
            foreach (CEnumMember member in e.Members)
            {
                Line(text, $"{member.Name} = {member.Value.ToString(CultureInfo.InvariantCulture)}");
            }
        }
    }

    private void EmitStructs(StringBuilder text)
    {
        foreach (CStruct s in _api.Structs)
        {
            Line(text);
            Line(text);
            Line(text, $"class {s.Name}(ctypes.Structure):");
            if (s.Documentation.Paragraphs.Count > 0)
            {
                Line(text, $"    \"\"\"{s.Documentation.Paragraphs[0].Replace("\"\"\"", "'''", StringComparison.Ordinal)}\"\"\"");
                Line(text);
            }

            Line(text, "    _fields_ = [");
            foreach (CField field in s.Fields)
            {
                Line(text, $"        (\"{field.Name}\", {TypeOf(field.Type, field.Location, $"field '{s.Name}.{field.Name}'")}),");
            }

            Line(text, "    ]");
        }
    }

    private void EmitPrototypes(StringBuilder text)
    {
        Line(text);
        Line(text);
        Line(text, "def declare(library):");
        Line(text, "    \"\"\"Declares the result and the parameters of every function on a loaded library.\"\"\"");
        foreach (CFunction function in _api.Functions)
        {
            string result = function.ReturnType.IsVoid ? "None" : TypeOf(function.ReturnType, function.Location, $"result of function '{function.Name}'");
            IEnumerable<string> parameters =
                function.Parameters.Select(p => TypeOf(p.Type, function.Location, $"parameter '{p.Name}' of function '{function.Name}'"));
            Line(text, $"    # {function.Signature}");
            Line(text, $"    library.{function.Name}.restype = {result}");
            Line(text, $"    library.{function.Name}.argtypes = [{string.Join(", ", parameters)}]");
        }
    }

    private string TypeOf(CType type, SourceLocation location, string subject)
    {
        if (type.ArrayLength is int length)
        {
            return $"{TypeOf(type.Element, location, subject)} * {length.ToString(CultureInfo.InvariantCulture)}";
        }

        string name = type.Name.StartsWith("struct ", StringComparison.Ordinal) ? type.Name["struct ".Length..] : type.Name;
        int pointers = type.Pointers;
        string? bottom = null;
        if (_structs.Contains(name))
        {
            bottom = name;
        }
        else if (_api.Handles.Any(handle => handle.Name == name))
        {
            bottom = "ctypes.c_void_p";
        }
        else if (pointers > 0 && (name == "void" || type.Name != name))
        {
            // void* and pointers to structs that no header completes are plain addresses.
            bottom = "ctypes.c_void_p";
            pointers--;
        }
        else if (pointers > 0 && name == "char")
        {
            bottom = "ctypes.c_char_p";
            pointers--;
        }
        else if (_api.Enums.FirstOrDefault(e => e.Name == name) is { } e)
        {
            bottom = TypeOf(e.Underlying, location, subject);
        }
        else if (_api.Aliases.FirstOrDefault(alias => alias.Name == name) is { } alias)
        {
            bottom = TypeOf(alias.Target, location, subject);
        }
        else if (Scalars.TryGetValue(name, out string? scalar))
        {
            bottom = "ctypes." + scalar;
        }

        if (bottom is null)
        {
            throw new GeneratorException(location, $"{subject} has the type '{type}', which has no ctypes form");
        }

        for (; pointers > 0; pointers--)
        {
            bottom = $"ctypes.POINTER({bottom})";
        }

        return bottom;
    }

    private static void Line(StringBuilder text, string line = "") => text.Append(line).Append('\n');
}
