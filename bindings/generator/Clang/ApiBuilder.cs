using System.Globalization;
using FlashAttention.BindingGenerator.Model;

namespace FlashAttention.BindingGenerator.Clang;

/// <summary>From top-level AST nodes to the model. Every declaration is either understood completely or an error.</summary>
internal sealed class ApiBuilder(IReadOnlyList<LocatedNode> nodes, IReadOnlyList<CConstant> constants)
{
    /// <summary>An enum <c>x_value</c> lists the values of the integer typedef <c>x</c>.</summary>
    private const string EnumTagSuffix = "_value";

    /// <summary>Attributes that change neither a layout nor a calling convention.</summary>
    private static readonly HashSet<string> HarmlessAttributes = ["VisibilityAttr", "DLLImportAttr", "DLLExportAttr", "NoThrowAttr", "WarnUnusedResultAttr"];

    private readonly List<CHandle> _handles = [];
    private readonly List<CAlias> _aliases = [];
    private readonly List<CEnum> _enums = [];
    private readonly List<CStruct> _structs = [];
    private readonly List<CFunction> _functions = [];
    private readonly HashSet<string> _joinedEnumTags = [];

    /// <summary>Builds the model.</summary>
    public CApi Build()
    {
        foreach (LocatedNode node in nodes)
        {
            AddDeclaration(node);
        }

        foreach (LocatedNode node in nodes.Where(node => node.Kind == "EnumDecl" && !_joinedEnumTags.Contains(node.Name)))
        {
            string tag = node.Name.Length == 0 ? "an anonymous enum" : $"enum '{node.Name}'";
            throw new GeneratorException(
                node.Location,
                $"{tag} has no integer typedef: the size of a C enum is the compiler's choice; expected 'typedef int32_t x;' with 'enum x{EnumTagSuffix}'");
        }

        CApi api = new(constants, _handles, _aliases, _enums, _structs, _functions);
        TypeMapper types = new(api);
        types.CheckAllTypes();
        return api;
    }

    private void AddDeclaration(LocatedNode node)
    {
        switch (node.Kind)
        {
            case "TypedefDecl":
                AddTypedef(node);
                break;
            case "RecordDecl":
                AddRecord(node);
                break;
            case "FunctionDecl":
                AddFunction(node);
                break;
            case "EnumDecl" or "StaticAssertDecl" or "EmptyDecl":
                break;
            case "VarDecl":
                throw new GeneratorException(node.Location, $"variable '{node.Name}' is exported; only functions can be imported");
            default:
                throw new GeneratorException(node.Location, $"unsupported declaration {node.Kind} '{node.Name}'");
        }
    }

    private void AddTypedef(LocatedNode node)
    {
        string text = node.QualifiedType;
        CType type = CType.Parse(text, node.Location, $"typedef '{node.Name}'");
        if (type.ArrayLength is not null)
        {
            throw new GeneratorException(node.Location, $"typedef '{node.Name}' is the array '{text}'; expected a scalar, a struct or an opaque pointer");
        }

        CDocumentation documentation = DocReader.FromNode(node);
        if (text.StartsWith("enum ", StringComparison.Ordinal))
        {
            throw new GeneratorException(
                node.Location,
                $"typedef '{node.Name}' is an enum: its size is the compiler's choice; "
                + $"expected 'typedef int32_t {node.Name};' with 'enum {node.Name}{EnumTagSuffix}'");
        }

        if (type.Pointers == 0 && text.StartsWith("struct ", StringComparison.Ordinal))
        {
            if (text != "struct " + node.Name)
            {
                throw new GeneratorException(node.Location, $"typedef '{node.Name}' names '{text}'; expected a struct with the tag '{node.Name}'");
            }
        }
        else if (type.Pointers > 0)
        {
            if (type.Pointers > 1 || !IsOpaque(type))
            {
                throw new GeneratorException(
                    node.Location, $"typedef '{node.Name}' is '{text}'; a pointer typedef must be 'void*' or point to an incomplete struct");
            }

            _handles.Add(new CHandle(node.Name, type.Spelling, documentation, node.Location));
        }
        else
        {
            AddScalarTypedef(node, type, documentation);
        }
    }

    private void AddScalarTypedef(LocatedNode node, CType type, CDocumentation documentation)
    {
        string tag = node.Name + EnumTagSuffix;
        LocatedNode? values = nodes.FirstOrDefault(other => other.Kind == "EnumDecl" && other.Name == tag);
        if (values is null)
        {
            _aliases.Add(new CAlias(node.Name, type, node.Location));
            return;
        }

        _joinedEnumTags.Add(tag);
        CDocumentation chosen = documentation.Paragraphs.Count > 0 ? documentation : DocReader.FromNode(values);
        List<CEnumMember> members = [];
        HashSet<int> usedComments = [];
        long next = 0;
        foreach (LocatedNode constant in values.Children.Where(child => child.Kind == "EnumConstantDecl"))
        {
            long value = FindConstantValue(constant) ?? next;

            // Clang looks back for a comment past the comma and gives an undocumented constant that of the one before it.
            bool isOwnComment = DocReader.FindOffset(constant) is not int offset || usedComments.Add(offset);
            members.Add(new CEnumMember(constant.Name, value, isOwnComment ? DocReader.FromNode(constant) : CDocumentation.Empty));
            next = unchecked(value + 1);
        }

        _enums.Add(new CEnum(node.Name, type, tag, members, chosen, node.Location));
    }

    /// <summary>The value clang computed for an enum constant; null if the source gives none.</summary>
    private static long? FindConstantValue(LocatedNode constant)
    {
        foreach (LocatedNode child in constant.Children.Where(child => child.Kind != "FullComment"))
        {
            string text = child.Kind == "ConstantExpr" ? child.GetString("value") : string.Empty;
            if (long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value))
            {
                return value;
            }

            throw new GeneratorException(constant.Location, $"enum constant '{constant.Name}' has a value of kind {child.Kind}, which cannot be read");
        }

        return null;
    }

    private void AddRecord(LocatedNode node)
    {
        if (node.GetString("tagUsed") != "struct")
        {
            throw new GeneratorException(node.Location, $"{node.GetString("tagUsed")} '{node.Name}' is not supported; expected a struct");
        }

        if (!node.GetFlag("completeDefinition"))
        {
            return;
        }

        if (node.Name.Length == 0)
        {
            throw new GeneratorException(node.Location, "anonymous struct; expected a struct whose tag is the name of its typedef");
        }

        List<CField> fields = [];
        foreach (LocatedNode child in node.Children)
        {
            switch (child.Kind)
            {
                case "FullComment":
                    break;
                case "FieldDecl":
                    fields.Add(ReadField(node, child));
                    break;
                case "RecordDecl" or "IndirectFieldDecl":
                    throw new GeneratorException(
                        child.Location, $"struct '{node.Name}' contains a nested {child.GetString("tagUsed")}, which is not supported");
                default:
                    throw new GeneratorException(
                        child.Location, $"struct '{node.Name}' has the unsupported element {child.Kind}; its layout may not be the natural one");
            }
        }

        if (fields.Count == 0)
        {
            throw new GeneratorException(node.Location, $"struct '{node.Name}' has no fields, which C does not define");
        }

        _structs.Add(new CStruct(node.Name, fields, DocReader.FromNode(node), node.Location));
    }

    private static CField ReadField(LocatedNode record, LocatedNode field)
    {
        string subject = $"field '{record.Name}.{field.Name}'";
        if (field.GetFlag("isBitfield"))
        {
            throw new GeneratorException(field.Location, $"{subject} is a bit field, whose layout is the compiler's choice");
        }

        RejectAttributes(field, subject);
        return new CField(field.Name, CType.Parse(field.QualifiedType, field.Location, subject), DocReader.FromNode(field), field.Location);
    }

    private void AddFunction(LocatedNode node)
    {
        string subject = $"function '{node.Name}'";
        if (node.GetFlag("variadic"))
        {
            throw new GeneratorException(node.Location, $"{subject} takes a variable number of arguments, which is not supported");
        }

        if (node.GetString("storageClass") == "static" || node.GetFlag("inline"))
        {
            throw new GeneratorException(node.Location, $"{subject} is defined in the header and exported by no library; expected a declaration");
        }

        string type = node.QualifiedType;
        int open = type.IndexOf('(', StringComparison.Ordinal);
        if (open < 0 || type[open..].StartsWith("(*", StringComparison.Ordinal) || type.Contains("__attribute__", StringComparison.Ordinal))
        {
            throw new GeneratorException(node.Location, $"{subject} has the type '{type}', which is not supported");
        }

        List<CParameter> parameters = [];
        foreach (LocatedNode child in node.Children.Where(child => child.Kind == "ParmVarDecl"))
        {
            string parameterSubject = $"parameter '{child.Name}' of {subject}";
            if (child.Name.Length == 0)
            {
                throw new GeneratorException(child.Location, $"parameter {parameters.Count + 1} of {subject} has no name");
            }

            RejectAttributes(child, parameterSubject);
            parameters.Add(new CParameter(child.Name, CType.Parse(child.QualifiedType, child.Location, parameterSubject)));
        }

        RejectAttributes(node, subject);
        CDocumentation documentation = DocReader.FromNode(node);
        foreach ((string documented, _) in documentation.Parameters)
        {
            if (parameters.All(parameter => parameter.Name != documented))
            {
                throw new GeneratorException(node.Location, $"the comment of {subject} documents '{documented}', which is none of its parameters");
            }
        }

        CFunction function = new(node.Name, CType.Parse(type[..open], node.Location, subject), parameters, documentation, node.Location);
        if (_functions.Any(other => other.Name == node.Name))
        {
            throw new GeneratorException(node.Location, $"{subject} is declared twice");
        }

        _functions.Add(function);
    }

    private static void RejectAttributes(LocatedNode node, string subject)
    {
        foreach (LocatedNode child in node.Children.Where(child => child.Kind.EndsWith("Attr", StringComparison.Ordinal)))
        {
            if (!HarmlessAttributes.Contains(child.Kind))
            {
                throw new GeneratorException(node.Location, $"{subject} has the attribute {child.Kind}, which is not supported");
            }
        }
    }

    private bool IsOpaque(CType type) =>
        type.Name == "void" || (type.Name.StartsWith("struct ", StringComparison.Ordinal) && !IsComplete(type.Name["struct ".Length..]));

    private bool IsComplete(string tag) => nodes.Any(node => node.Kind == "RecordDecl" && node.Name == tag && node.GetFlag("completeDefinition"));
}
