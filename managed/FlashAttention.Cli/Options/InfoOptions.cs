using CommandLine;

namespace FlashAttention.Cli.Options;

[Verb("info", HelpText = "Devices, library version and build, and which kernels compute what.")]
internal sealed class InfoOptions : CommonOptions
{
    public static readonly string[] Examples = ["flashattn info", "flashattn info --json"];
}

[Verb("doctor", HelpText = "How the native library was found and loaded, step by step, and a smoke test.")]
internal sealed class DoctorOptions : CommonOptions
{
    public static readonly string[] Examples = ["flashattn doctor", "FLASH_ATTENTION_LIBRARY=/opt/lib/libflash_attention.so flashattn doctor --json"];
}
