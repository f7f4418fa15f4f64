using System.Globalization;

namespace FlashAttention.Cli.Files;

/// <summary>Reads the dict literal of a .npy header: exactly the keys descr (a string), fortran_order (True or False) and shape (a tuple), in any
/// order.</summary>
internal ref struct NpyDictReader(string text)
{
    private readonly ReadOnlySpan<char> _text = text;
    private int _at;

    public bool TryRead(out string descr, out bool fortranOrder, out long[] shape, out string error)
    {
        descr = string.Empty;
        fortranOrder = false;
        shape = [];
        HashSet<string> seen = [];
        if (!Take('{'))
        {
            error = "'{' expected";
            return false;
        }
        while (!Take('}'))
        {
            if (!TryString(out string key) || !Take(':'))
            {
                error = "a quoted key and ':' expected";
                return false;
            }
            if (!seen.Add(key))
            {
                error = $"key '{key}' twice";
                return false;
            }
            error = key switch
            {
                "descr" => ReadDescr(out descr),
                "fortran_order" => ReadBool(out fortranOrder),
                "shape" => ReadShape(out shape),
                _ => $"unknown key '{key}'",
            };
            if (error.Length > 0)
            {
                return false;
            }
            if (!Take(',') && Peek() != '}')
            {
                error = "',' or '}' expected";
                return false;
            }
        }
        SkipSpace();
        error = _at != _text.Length ? "text after '}'" : seen.Count != 3 ? "descr, fortran_order and shape are all needed" : string.Empty;
        return error.Length == 0;
    }

    private string ReadDescr(out string descr)
    {
        if (Peek() == '[')
        {
            descr = string.Empty;
            return "a structured type (descr is a list); expected plain floating-point elements";
        }
        return TryString(out descr) ? string.Empty : "descr must be a string";
    }

    private string ReadBool(out bool value)
    {
        SkipSpace();
        value = _text[_at..].StartsWith("True");
        if (!value && !_text[_at..].StartsWith("False"))
        {
            return "fortran_order must be True or False";
        }
        _at += value ? 4 : 5;
        return string.Empty;
    }

    private string ReadShape(out long[] shape)
    {
        List<long> sizes = [];
        shape = [];
        if (!Take('('))
        {
            return "shape must be a tuple";
        }
        while (!Take(')'))
        {
            SkipSpace();
            int start = _at;
            while (_at < _text.Length && char.IsAsciiDigit(_text[_at]))
            {
                _at++;
            }
            if (!long.TryParse(_text[start.._at], NumberStyles.None, CultureInfo.InvariantCulture, out long size))
            {
                return "shape must hold non-negative integers below 2^63";
            }
            if (_at < _text.Length && _text[_at] == 'L')
            {
                _at++; // written by Python 2
            }
            sizes.Add(size);
            if (!Take(',') && Peek() != ')')
            {
                return "',' or ')' expected in shape";
            }
        }
        shape = [.. sizes];
        return string.Empty;
    }

    private bool TryString(out string value)
    {
        SkipSpace();
        value = string.Empty;
        if (_at >= _text.Length || _text[_at] is not ('\'' or '"'))
        {
            return false;
        }
        int length = _text[(_at + 1)..].IndexOf(_text[_at]);
        if (length < 0)
        {
            return false;
        }
        value = _text.Slice(_at + 1, length).ToString();
        _at += length + 2;
        return true;
    }

    private bool Take(char expected)
    {
        if (Peek() != expected)
        {
            return false;
        }
        _at++;
        return true;
    }

    private char Peek()
    {
        SkipSpace();
        return _at < _text.Length ? _text[_at] : '\0';
    }

    private void SkipSpace()
    {
        while (_at < _text.Length && _text[_at] is (' ' or '\n' or '\t' or '\r'))
        {
            _at++;
        }
    }
}
