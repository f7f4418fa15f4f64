namespace FlashAttention.BindingGenerator.Model;

/// <summary>A field's place in a struct, in bytes.</summary>
internal sealed record FieldLayout(string Name, string Type, int Offset, int Size);

/// <summary>A struct's layout in bytes under natural alignment, the rule of every C ABI that .NET runs on in 64 bits.</summary>
internal sealed record StructLayout(string Name, int Size, int Alignment, IReadOnlyList<FieldLayout> Fields)
{
    /// <summary>Lays out a struct.</summary>
    public static StructLayout Compute(CStruct declaration, TypeMapper types)
    {
        List<FieldLayout> fields = [];
        int offset = 0;
        int structAlignment = 1;
        foreach (CField field in declaration.Fields)
        {
            (int size, int alignment) = types.Measure(field.Type, field.Location, $"field '{declaration.Name}.{field.Name}'");
            offset = RoundUp(offset, alignment);
            fields.Add(new FieldLayout(field.Name, field.Type.ToString(), offset, size));
            offset += size;
            structAlignment = Math.Max(structAlignment, alignment);
        }

        return new StructLayout(declaration.Name, RoundUp(offset, structAlignment), structAlignment, fields);
    }

    /// <summary>The next multiple of an alignment.</summary>
    public static int RoundUp(int offset, int alignment) => (offset + alignment - 1) / alignment * alignment;
}
