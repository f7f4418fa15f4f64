using FlashAttention.BindingGenerator.Clang;
using NUnit.Framework;

namespace FlashAttention.BindingGenerator.Tests;

/// <summary>All tests here need clang and a C compiler. Without them they are skipped, or fail if FLASH_ATTENTION_REQUIRE_CLANG is 1.</summary>
[SetUpFixture]
internal sealed class ToolCheck
{
    [OneTimeSetUp]
    public void FindTools()
    {
        try
        {
            ProcessRunner.FindTool(null, "CLANG", HeaderParser.ClangNames);
            ProcessRunner.FindTool(null, "CC", ["cc", "gcc", "clang"]);
        }
        catch (GeneratorException exception) when (Environment.GetEnvironmentVariable("FLASH_ATTENTION_REQUIRE_CLANG") != "1")
        {
            Assert.Ignore(exception.Message);
        }
    }
}
