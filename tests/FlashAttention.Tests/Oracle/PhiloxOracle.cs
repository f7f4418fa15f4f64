namespace FlashAttention.Tests;

/// <summary>Philox4x32-10 (Salmon et al., 2011) from its definition, and the dropout mask of the contract from it.</summary>
internal static class PhiloxOracle
{
    /// <summary>One block of four words.</summary>
    public static uint[] Block(uint[] counter, uint[] key)
    {
        uint[] c = [.. counter];
        for (uint round = 0; round < 10; round++)
        {
            // The key is bumped between rounds by the golden ratio and sqrt(3) - 1.
            uint k0 = unchecked(key[0] + round * 0x9E3779B9u);
            uint k1 = unchecked(key[1] + round * 0xBB67AE85u);
            ulong left = c[0] * 0xD2511F53ul;
            ulong right = c[2] * 0xCD9E8D57ul;
            c = [(uint)(right / 4294967296) ^ c[1] ^ k0, (uint)(right % 4294967296), (uint)(left / 4294967296) ^ c[3] ^ k1, (uint)(left % 4294967296)];
        }
        return c;
    }

    /// <summary>True if a pair is kept.</summary>
    public static bool Keeps(float dropout, ulong seed, uint offset, int batchHead, int i, int j)
    {
        uint[] words = Block([(uint)(j / 4), (uint)i, (uint)batchHead, offset], [(uint)(seed % 4294967296), (uint)(seed / 4294967296)]);
        return words[j % 4] >= Math.Floor((double)dropout * 4294967296);
    }
}
