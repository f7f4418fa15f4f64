namespace FlashAttention.Tests;

/// <summary>Every case of the table, forward and backward, against the float64 oracle within both bounds.</summary>
[TestFixtureSource(typeof(TestDevice), nameof(TestDevice.Wanted))]
public sealed class AccuracyTests(TestDevice device) : DeviceFixture(device)
{
    [TestCaseSource(typeof(CaseTable), nameof(CaseTable.All))]
    public void ForwardAndBackwardMatchTheOracle(ProblemCase problem) => Accuracy.Check(Device, problem);
}
