namespace FlashAttention;

/// <summary>The counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).</summary>
internal static class Philox
{
    private const uint MultiplierA = 0xD2511F53, MultiplierB = 0xCD9E8D57;
    private const uint WeylA = 0x9E3779B9, WeylB = 0xBB67AE85;
    private const int Rounds = 10;

    /// <summary>Four random words of a counter and a key.</summary>
    public static (uint W0, uint W1, uint W2, uint W3) Words((uint C0, uint C1, uint C2, uint C3) counter, uint key0, uint key1)
    {
        (uint c0, uint c1, uint c2, uint c3) = counter;
        for (int round = 0; round < Rounds; ++round)
        {
            ulong a = (ulong)MultiplierA * c0;
            ulong b = (ulong)MultiplierB * c2;
            (c0, c1, c2, c3) = ((uint)(b >> 32) ^ c1 ^ key0, (uint)b, (uint)(a >> 32) ^ c3 ^ key1, (uint)a);
            unchecked
            {
                key0 += WeylA;
                key1 += WeylB;
            }
        }

        return (c0, c1, c2, c3);
    }

    /// <summary>Whether dropout keeps a pair.</summary>
    /// <param name="dropout">Rate, seed and offset.</param>
    /// <param name="head">Batch entry (or sequence) · heads_q + query head.</param>
    /// <param name="query">Index of the query in its sequence.</param>
    /// <param name="key">Index of the key in its sequence.</param>
    public static bool Keeps(Dropout dropout, uint head, uint query, uint key)
    {
        (uint w0, uint w1, uint w2, uint w3) = Words((key / 4, query, head, dropout.Offset), (uint)dropout.Seed, (uint)(dropout.Seed >> 32));
        uint word = (key % 4) switch { 0 => w0, 1 => w1, 2 => w2, _ => w3 };
        return word >= (ulong)(dropout.Rate * 4294967296.0);
    }
}
