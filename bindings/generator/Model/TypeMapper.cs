namespace FlashAttention.BindingGenerator.Model;

/// <summary>Maps C types to blittable C# types and to their size and alignment on the platforms .NET runs on in 64 bits.</summary>
internal sealed class TypeMapper
{
    /// <summary>Size and alignment of every pointer and handle, in bytes.</summary>
    public const int PointerBytes = 8;

    /// <summary>C scalars whose width is the same on all supported platforms, with their C# type and size in bytes (which is also the alignment).</summary>
    private static readonly Dictionary<string, (string CSharp, int Bytes)> Scalars = new()
    {
        ["int8_t"] = ("sbyte", 1),
        ["signed char"] = ("sbyte", 1),
        ["uint8_t"] = ("byte", 1),
        ["unsigned char"] = ("byte", 1),
        ["char"] = ("byte", 1),
        ["int16_t"] = ("short", 2),
        ["short"] = ("short", 2),
        ["uint16_t"] = ("ushort", 2),
        ["unsigned short"] = ("ushort", 2),
        ["int32_t"] = ("int", 4),
        ["int"] = ("int", 4),
        ["uint32_t"] = ("uint", 4),
        ["unsigned int"] = ("uint", 4),
        ["int64_t"] = ("long", 8),
        ["long long"] = ("long", 8),
        ["uint64_t"] = ("ulong", 8),
        ["unsigned long long"] = ("ulong", 8),
        ["size_t"] = ("nuint", PointerBytes),
        ["uintptr_t"] = ("nuint", PointerBytes),
        ["intptr_t"] = ("nint", PointerBytes),
        ["ptrdiff_t"] = ("nint", PointerBytes),
        ["float"] = ("float", 4),
        ["double"] = ("double", 8),
    };

    /// <summary>C types that have to be refused, with what to write instead.</summary>
    private static readonly Dictionary<string, string> Refused = new()
    {
        ["long"] = "its width differs between platforms; expected int64_t",
        ["unsigned long"] = "its width differs between platforms; expected uint64_t",
        ["long double"] = "it has no C# form; expected double",
        ["_Bool"] = "expected int32_t with 0 and 1",
        ["wchar_t"] = "its width differs between platforms; expected char with UTF-8",
    };

    private readonly CApi _api;
    private readonly Dictionary<string, CHandle> _handles;
    private readonly Dictionary<string, CAlias> _aliases;
    private readonly Dictionary<string, CEnum> _enums;
    private readonly Dictionary<string, CStruct> _structs;

    /// <summary>A mapper that knows the types of an interface.</summary>
    public TypeMapper(CApi api)
    {
        _api = api;
        _handles = api.Handles.ToDictionary(handle => handle.Name);
        _aliases = api.Aliases.ToDictionary(alias => alias.Name);
        _enums = api.Enums.ToDictionary(e => e.Name);
        _structs = api.Structs.ToDictionary(s => s.Name);
    }

    /// <summary>Element types that C# allows in a fixed buffer.</summary>
    public static bool CanBeFixedBuffer(string csharp) =>
        csharp is "sbyte" or "byte" or "short" or "ushort" or "int" or "uint" or "long" or "ulong" or "float" or "double";

    /// <summary>The C# type of a C type (of its element, for an array).</summary>
    /// <exception cref="GeneratorException">The type has no C# form.</exception>
    public string ToCSharp(CType type, SourceLocation location, string subject)
    {
        int pointers = type.Pointers;
        string name = type.Name;
        if (name.StartsWith("struct ", StringComparison.Ordinal))
        {
            name = name["struct ".Length..];
            if (!_structs.ContainsKey(name))
            {
                return pointers > 0 ? "nint" + new string('*', pointers - 1) : throw Unknown(type, location, subject, "the struct is incomplete");
            }
        }

        string? csharp = name == "void" ? "void" : FindNamed(name, location, subject);
        if (csharp is null)
        {
            throw Unknown(type, location, subject, Refused.GetValueOrDefault(name, "expected a fixed-width scalar, or a type these headers define"));
        }

        return csharp + new string('*', pointers);
    }

    /// <summary>Size and alignment of a C type in bytes, natural alignment throughout.</summary>
    public (int Size, int Alignment) Measure(CType type, SourceLocation location, string subject)
    {
        if (type.ArrayLength is int length)
        {
            (int size, int alignment) = Measure(type.Element, location, subject);
            return (size * length, alignment);
        }

        if (type.Pointers > 0 || _handles.ContainsKey(type.Name))
        {
            return (PointerBytes, PointerBytes);
        }

        if (_aliases.TryGetValue(type.Name, out CAlias? alias))
        {
            return Measure(alias.Target, location, subject);
        }

        if (_enums.TryGetValue(type.Name, out CEnum? e))
        {
            return Measure(e.Underlying, location, subject);
        }

        string name = type.Name.StartsWith("struct ", StringComparison.Ordinal) ? type.Name["struct ".Length..] : type.Name;
        if (_structs.TryGetValue(name, out CStruct? s))
        {
            StructLayout layout = StructLayout.Compute(s, this);
            return (layout.Size, layout.Alignment);
        }

        return Scalars.TryGetValue(type.Name, out (string CSharp, int Bytes) scalar)
            ? (scalar.Bytes, scalar.Bytes)
            : throw Unknown(type, location, subject, "its size is unknown");
    }

    /// <summary>Maps every type in use, so that an error appears while parsing and names the place.</summary>
    public void CheckAllTypes()
    {
        foreach (CAlias alias in _api.Aliases)
        {
            ToCSharp(alias.Target, alias.Location, $"typedef '{alias.Name}'");
        }

        foreach (CEnum e in _api.Enums)
        {
            string underlying = ToCSharp(e.Underlying, e.Location, $"typedef '{e.Name}'");
            if (underlying is not ("sbyte" or "byte" or "short" or "ushort" or "int" or "uint" or "long" or "ulong"))
            {
                throw new GeneratorException(
                    e.Location, $"typedef '{e.Name}' is '{e.Underlying}' but has an enum '{e.EnumTag}'; expected a fixed-width integer");
            }
        }

        foreach (CStruct s in _api.Structs)
        {
            foreach (CField field in s.Fields)
            {
                string subject = $"field '{s.Name}.{field.Name}'";
                string csharp = ToCSharp(field.Type.Element, field.Location, subject);
                if (csharp == "void")
                {
                    throw Unknown(field.Type, field.Location, subject, "expected a scalar, a struct, a pointer, or an array of those");
                }
            }
        }

        foreach (CFunction function in _api.Functions)
        {
            ToCSharp(function.ReturnType, function.Location, $"result of function '{function.Name}'");
            foreach (CParameter parameter in function.Parameters)
            {
                string subject = $"parameter '{parameter.Name}' of function '{function.Name}'";
                if (ToCSharp(parameter.Type, function.Location, subject) == "void" || parameter.Type.ArrayLength is not null)
                {
                    throw Unknown(parameter.Type, function.Location, subject, "expected a scalar, a struct or a pointer");
                }
            }
        }
    }

    private string? FindNamed(string name, SourceLocation location, string subject)
    {
        if (_handles.ContainsKey(name))
        {
            return "nint";
        }

        if (_aliases.TryGetValue(name, out CAlias? alias))
        {
            return ToCSharp(alias.Target, location, subject);
        }

        bool keepsItsName = _enums.ContainsKey(name) || _structs.ContainsKey(name);
        return keepsItsName ? name : Scalars.TryGetValue(name, out (string CSharp, int Bytes) scalar) ? scalar.CSharp : null;
    }

    private static GeneratorException Unknown(CType type, SourceLocation location, string subject, string reason) =>
        new(location, $"{subject} has the type '{type}', which is not supported: {reason}");
}
