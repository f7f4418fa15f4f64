#!/usr/bin/env pwsh
# One entry point for everything on Windows, with the verbs of build.sh: ./build.ps1 --help
# Works with Windows PowerShell 5.1 and PowerShell 7.
[CmdletBinding()]
param(
    [Alias('h', '?')]
    [switch] $Help,
    [Parameter(Position = 0, ValueFromRemainingArguments = $true)]
    [string[]] $Arguments = @()
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$Root = $PSScriptRoot.Replace('\', '/')   # MSBuild, CMake and PowerShell all take it, and nothing reads it as an escape
Set-Location $Root

# Elsewhere than on Windows the other script does the work.
if ($PSVersionTable.PSEdition -eq 'Core' -and -not $IsWindows) {
    if ($Help) { $Arguments = @('--help') }
    & "$Root/build.sh" @Arguments
    exit $LASTEXITCODE
}

$HelpText = @'
Usage: ./build.ps1 [VERB] [OPTIONS] [ARGUMENTS]     (on Linux it passes everything on to build.sh)

Verbs
  build      native library and all managed projects (default)
  demo       attention on real text on this machine, fused beside naive (flashattn demo)
  test       every test; ends with "N passed, N failed, N skipped"
  bindings   regenerate the C# bindings from the C headers
  format     format C, C++, CUDA and C# sources in place
  check      formatting, warnings as errors, kernel budgets, drift between headers and bindings
  pack       NuGet packages into artifacts/packages
  bench      benchmarks; ARGUMENTS go to the benchmark program (demo and bindings pass theirs on too)

Options
  --no-cuda    leave the CUDA backend out
  --debug      debug build, in folders of its own
  --sanitize   not on Windows; build.sh has it
  --verbose    show the output of every step
  --help       this text

What is missing is named with the command that installs it.
Results: native/build*, artifacts/bin, artifacts/packages, artifacts/test-results; logs of the steps: artifacts/logs.
'@

# ---- arguments -------------------------------------------------------------------------------------------------------------------------
$Verb = ''
$Cuda = 'auto'
$Configuration = 'Release'
$ShowOutput = $false
$Extra = @()
$Verbs = @('build', 'demo', 'test', 'bindings', 'format', 'check', 'pack', 'bench')
if ($Help) { Write-Host $HelpText; exit 0 }
foreach ($argument in $Arguments) {
    if ($Verbs -ccontains $argument) {
        if ($Verb) { Write-Host "build.ps1: two verbs, '$Verb' and '$argument'; give one"; exit 2 }
        $Verb = $argument
    }
    elseif ($argument -eq '--no-cuda') { $Cuda = 'off' }
    elseif ($argument -eq '--debug') { $Configuration = 'Debug' }
    elseif ($argument -eq '--sanitize') { Write-Host 'build.ps1: the sanitizer builds need GCC or Clang on Linux: ./build.sh test --sanitize'; exit 2 }
    elseif ($argument -eq '--verbose') { $ShowOutput = $true }
    elseif (@('--help', 'help', '/?') -contains $argument) { Write-Host $HelpText; exit 0 }
    elseif (@('demo', 'bindings', 'bench') -contains $Verb) { $Extra += $argument }   # PowerShell itself takes a lone "--" away
    else { Write-Host "build.ps1: unknown argument '$argument'; ./build.ps1 --help lists verbs and options"; exit 2 }
}
if (-not $Verb) { $Verb = 'build' }

$env:DOTNET_NOLOGO = '1'
$env:DOTNET_CLI_TELEMETRY_OPTOUT = '1'
$env:DOTNET_GENERATE_ASPNET_CERTIFICATE = 'false'
$env:MSBUILDDISABLENODEREUSE = '1'
$Logs = Join-Path $Root 'artifacts/logs'
$Results = Join-Path $Root 'artifacts/test-results'
New-Item -ItemType Directory -Force $Logs | Out-Null
$Started = Get-Date

# ---- steps -----------------------------------------------------------------------------------------------------------------------------
# Runs one program; its exit code decides.
function Invoke-Program {
    param([string] $Program, [string[]] $ProgramArguments)
    # Native programs may write to stderr without failing.
    $saved = $ErrorActionPreference
    $ErrorActionPreference = 'Continue'
    & $Program @ProgramArguments 2>&1 | ForEach-Object { "$_" }
    $code = $LASTEXITCODE
    $ErrorActionPreference = $saved
    if ($code -ne 0) { throw "$Program ended with exit code $code" }
}

# Runs a script block with its output in a log. Returns whether it succeeded.
function Invoke-Step {
    param([string] $Name, [scriptblock] $Body, [switch] $GoOn)
    $log = Join-Path $Logs (($Name -replace '[^a-zA-Z0-9]', '-') + '.log')
    $watch = [System.Diagnostics.Stopwatch]::StartNew()
    $problem = $null
    try {
        if ($ShowOutput) { & $Body | Tee-Object -FilePath $log | Out-Host } else { & $Body | Out-File -FilePath $log -Encoding utf8 }
    }
    catch { $problem = $_.Exception.Message }
    $word = 'ok'
    if ($problem) { $word = 'FAILED' }
    Write-Host ('  {0,-38} {1}  {2:0.0} s' -f $Name, $word, $watch.Elapsed.TotalSeconds)
    if (-not $problem) { return $true }
    if (-not $ShowOutput -and (Test-Path $log)) { Get-Content $log -Tail 40 | Out-Host }
    if ($GoOn) { Write-Host "    $problem; whole log: $log"; return $false }
    Write-Host "build.ps1 ${Verb}: step '$Name' failed ($problem); its whole log is $log"
    exit 1
}

# ---- what is needed --------------------------------------------------------------------------------------------------------------------
function Assert-Tool {
    param([string] $Tool, [string] $Command)
    if (-not (Get-Command $Tool -ErrorAction SilentlyContinue)) {
        Write-Host "build.ps1: '$Tool' is missing here. Run"
        Write-Host "  $Command"
        exit 1
    }
}

function Assert-Dotnet {
    Assert-Tool 'dotnet' 'winget install Microsoft.DotNet.SDK.10'
    $version = & dotnet --version
    if (-not ($version -match '^(\d+)\.') -or [int] $Matches[1] -lt 10) {
        Write-Host "build.ps1: the .NET SDK 10 is needed (found: $version). Run"
        Write-Host '  winget install Microsoft.DotNet.SDK.10'
        exit 1
    }
}

# Brings the compiler's environment (cl, cmake, ninja) into this session, from the newest Visual Studio that has the C++ tools.
function Enter-CompilerEnvironment {
    if (-not (Get-Command cl -ErrorAction SilentlyContinue)) {
        $vswhere = Join-Path ${env:ProgramFiles(x86)} 'Microsoft Visual Studio/Installer/vswhere.exe'
        $installation = $null
        if (Test-Path $vswhere) {
            $installation = & $vswhere -latest -products * -requires Microsoft.VisualStudio.Component.VC.Tools.x86.x64 -property installationPath
        }
        if (-not $installation) {
            Write-Host 'build.ps1: the C++ tools of Visual Studio 2022 are missing here. Run'
            Write-Host ('  winget install Microsoft.VisualStudio.2022.BuildTools --override ' +
                '"--wait --quiet --add Microsoft.VisualStudio.Workload.VCTools --includeRecommended"')
            exit 1
        }
        $batch = Join-Path $installation 'VC/Auxiliary/Build/vcvars64.bat'
        & cmd.exe /s /c "`"$batch`" >nul 2>&1 && set" | ForEach-Object {
            if ($_ -match '^([^=]+)=(.*)$') { [Environment]::SetEnvironmentVariable($Matches[1], $Matches[2], 'Process') }
        }
    }
    Assert-Tool 'cmake' 'winget install Kitware.CMake'
    Assert-Tool 'ninja' 'winget install Ninja-build.Ninja'
}

# CUDA on Windows comes from NVIDIA's installer; without it the library is built without the CUDA backend, said loudly.
function Resolve-Cuda {
    if ($script:Cuda -ne 'auto') { return }
    $nvcc = $env:CUDACXX
    if (-not $nvcc -and $env:CUDA_PATH) { $nvcc = Join-Path $env:CUDA_PATH 'bin/nvcc.exe' }
    if (-not $nvcc) {
        $command = Get-Command nvcc -ErrorAction SilentlyContinue
        if ($command) { $nvcc = $command.Source }
    }
    if ($nvcc -and (Test-Path $nvcc)) {
        $text = (& $nvcc --version) -join ' '
        if ($text -match 'release (\d+)\.(\d+)' -and ([int] $Matches[1] -gt 12 -or ([int] $Matches[1] -eq 12 -and [int] $Matches[2] -ge 4))) {
            $env:CUDACXX = $nvcc
            $script:Cuda = 'on'
            return
        }
    }
    if ($env:FLASH_ATTENTION_REQUIRE_CUDA) { Write-Host 'build.ps1: nvcc 12.4 or newer was not found'; exit 1 }
    Write-Host '  ==> LEFT OUT: the CUDA backend. The CPU backend is complete. To add CUDA, install CUDA 12.4 or newer: winget install Nvidia.CUDA'
    $script:Cuda = 'off'
}

# ---- native ----------------------------------------------------------------------------------------------------------------------------
function Get-NativeFolder {
    $name = 'build'
    if ($Cuda -eq 'off') { $name += '-cpu' }
    if ($Configuration -ne 'Release') { $name += '-debug' }
    return "$Root/native/$name"
}

function Get-LibraryPath { return "$(Get-NativeFolder)/flash_attention.dll" }

# Warnings are errors in `check` alone: each version of Visual Studio brings new ones, and none of them may keep a user from the library.
function Build-Native {
    param([switch] $Tests, [switch] $Strict)
    $folder = Get-NativeFolder
    $withCuda = if ($Cuda -eq 'on') { 'ON' } else { 'OFF' }
    $strictly = if ($Strict) { 'ON' } else { 'OFF' }
    $options = @('-S', 'native', '-B', $folder, '-G', 'Ninja', "-DCMAKE_BUILD_TYPE=$Configuration", "-DFA_WERROR=$strictly", "-DFA_CUDA=$withCuda")
    $targets = @('flash_attention')
    if ($Cuda -eq 'on') { $targets += 'fa_kernel_guard' }
    if ($Tests) {
        $options += '-DFA_TESTS=ON'
        $targets = @('all')
    }
    Invoke-Program cmake $options
    Invoke-Program cmake (@('--build', $folder, '--target') + $targets)
}

function Invoke-CTest {
    param([string] $Name, [string] $Folder)
    Invoke-Program ctest @('--test-dir', $Folder, '-j', "$env:NUMBER_OF_PROCESSORS", '--output-on-failure', '--no-tests=error',
        '--output-junit', (Join-Path $Results "$Name.xml"))
}

# ---- managed ---------------------------------------------------------------------------------------------------------------------------
function Get-MSBuildOptions { return @('-c', $Configuration, '-v:minimal', '-nologo', "-p:FlashAttentionNativeDirectory=$(Get-NativeFolder)/") }

function Get-OutputFolder {
    param([string] $Project)
    return "$Root/artifacts/bin/$Project/$($Configuration.ToLowerInvariant())"
}

function Build-Managed {
    param([string] $Target = 'FlashAttention.sln')
    Invoke-Program dotnet (@('build', $Target) + (Get-MSBuildOptions))
}

function Get-Generator { return "$(Get-OutputFolder 'FlashAttention.BindingGenerator')/FlashAttention.BindingGenerator.dll" }

function Invoke-Generator {
    param([string[]] $GeneratorArguments)
    Invoke-Program dotnet (@(Get-Generator) + $GeneratorArguments)
}

function Build-Packages {
    if (Test-Path artifacts/packages) { Remove-Item -Recurse -Force artifacts/packages }
    foreach ($project in @('managed/FlashAttention', 'managed/FlashAttention.Cli')) {
        Invoke-Program dotnet (@('pack', $project) + (Get-MSBuildOptions) + @('-o', 'artifacts/packages'))
    }
}

function Invoke-NUnit {
    param([string] $Assembly)
    $env:FLASH_ATTENTION_LIBRARY = Get-LibraryPath
    try {
        Invoke-Program dotnet @("$(Get-OutputFolder $Assembly)/$Assembly.dll", '--no-progress', '--no-ansi', '--results-directory', $Results, '--report-trx',
            '--report-trx-filename', "$Assembly.trx")
    }
    finally { $env:FLASH_ATTENTION_LIBRARY = $null }
}

function Get-NativeSources {
    $extensions = @('.h', '.c', '.cpp', '.cu', '.cuh')
    return @(Get-ChildItem -Recurse -File native/include, native/src, tests, bindings | Where-Object { $extensions -contains $_.Extension } |
        ForEach-Object { $_.FullName })
}

function Format-Native {
    param([string[]] $FormatArguments)
    $files = Get-NativeSources
    for ($i = 0; $i -lt $files.Count; $i += 50) {
        Invoke-Program clang-format ($FormatArguments + @($files[$i..([Math]::Min($i + 49, $files.Count - 1))]))
    }
}

# ---- tests -----------------------------------------------------------------------------------------------------------------------------
$Passed = 0
$Failed = 0
$Skipped = 0

# Adds one results file (TRX of NUnit, JUnit of CTest) to the totals. A run that failed without a failed test in its file counts as one failure.
function Add-Results {
    param([string] $File, [bool] $Succeeded)
    $ok = 0; $bad = 0; $left = 0
    if (Test-Path $File) {
        $xml = New-Object System.Xml.XmlDocument
        $xml.Load($File)
        foreach ($node in $xml.SelectNodes("//*[local-name()='UnitTestResult']")) {
            $outcome = $node.GetAttribute('outcome')
            if ($outcome -eq 'Passed') { $ok++ } elseif (@('NotExecuted', 'Inconclusive') -contains $outcome) { $left++ } else { $bad++ }
        }
        foreach ($node in $xml.SelectNodes('//testcase')) {
            $status = $node.GetAttribute('status')
            if ($status -eq 'run') { $ok++ } elseif ($status -eq 'fail') { $bad++ } else { $left++ }
        }
    }
    if (-not $Succeeded -and $bad -eq 0) { $bad = 1 }
    Write-Host ('  {0,-38} {1} passed, {2} failed, {3} skipped' -f '', $ok, $bad, $left)
    $script:Passed += $ok; $script:Failed += $bad; $script:Skipped += $left
}

function Write-Report {
    Write-Host ('  results: artifacts/test-results, {0:0} s' -f ((Get-Date) - $Started).TotalSeconds)
    if ($Passed + $Failed -eq 0) { Write-Host 'build.ps1 test: no test ran'; $script:Failed = 1 }
    Write-Host "$Passed passed, $Failed failed, $Skipped skipped"
    if ($Failed -ne 0) { exit 1 }
}

function Test-Everything {
    if (Test-Path $Results) { Remove-Item -Recurse -Force $Results }
    New-Item -ItemType Directory -Force $Results | Out-Null
    Enter-CompilerEnvironment
    Assert-Dotnet
    Resolve-Cuda
    # Without GoogleTest, which no Windows brings, the C and C++ consumers and the managed suites still run.
    Invoke-Step 'native library and tests' { Build-Native -Tests } | Out-Null
    Invoke-Step 'managed projects' { Build-Managed } | Out-Null
    $succeeded = Invoke-Step 'native tests' { Invoke-CTest 'native' (Get-NativeFolder) } -GoOn
    Add-Results (Join-Path $Results 'native.xml') $succeeded
    foreach ($project in @('FlashAttention.BindingGenerator.Tests', 'FlashAttention.Cli.Tests', 'FlashAttention.Tests')) {
        $succeeded = Invoke-Step $project { Invoke-NUnit $project } -GoOn
        Add-Results (Join-Path $Results "$project.trx") $succeeded
    }
    Invoke-Step 'packages' { Build-Packages } | Out-Null
    Invoke-Step 'package tests, configure' {
        Invoke-Program cmake @('-S', 'tests/PackageConsumer', '-B', 'artifacts/package-tests', '-G', 'Ninja', "-DFEED=$Root/artifacts/packages",
            "-DLIBRARY=$(Get-LibraryPath)", "-DGENERATOR=$(Get-Generator)")
    } | Out-Null
    $succeeded = Invoke-Step 'package and README' { Invoke-CTest 'package' 'artifacts/package-tests' } -GoOn
    Add-Results (Join-Path $Results 'package.xml') $succeeded
    Write-Report
}

# ---- verbs -----------------------------------------------------------------------------------------------------------------------------
Write-Host "FlashAttention: $Verb ($Configuration)"
switch ($Verb) {
    'build' {
        Enter-CompilerEnvironment
        Assert-Dotnet
        Resolve-Cuda
        Invoke-Step 'native library' { Build-Native } | Out-Null
        Invoke-Step 'managed projects' { Build-Managed } | Out-Null
        Write-Host "  library: $(Get-LibraryPath)  program: $(Get-OutputFolder 'FlashAttention.Cli')/flashattn.exe"
    }
    'demo' {
        Enter-CompilerEnvironment
        Assert-Dotnet
        if ($Cuda -eq 'auto' -and -not (Test-Path native/build/flash_attention.dll) -and -not (Get-Command nvidia-smi -ErrorAction SilentlyContinue)) {
            Write-Host '  no NVIDIA GPU here: the demo builds the CPU backend only (./build.ps1 builds everything)'
            $Cuda = 'off'
        }
        Resolve-Cuda
        Invoke-Step 'native library' { Build-Native } | Out-Null
        Invoke-Step 'command line' { Build-Managed 'managed/FlashAttention.Cli' } | Out-Null
        & dotnet "$(Get-OutputFolder 'FlashAttention.Cli')/flashattn.dll" demo @Extra
        exit $LASTEXITCODE
    }
    'test' { Test-Everything }
    'bindings' {
        Assert-Dotnet
        Assert-Tool 'clang' 'winget install LLVM.LLVM'
        Invoke-Step 'generator' { Build-Managed 'bindings/generator' } | Out-Null
        Invoke-Step 'bindings' { Invoke-Generator (@('generate') + $Extra) } | Out-Null
        Get-Content (Join-Path $Logs 'bindings.log') | ForEach-Object { Write-Host $_ }
    }
    'format' {
        Assert-Dotnet
        Assert-Tool 'clang-format' 'winget install LLVM.LLVM'
        Invoke-Step 'C, C++, CUDA' { Format-Native @('-i') } | Out-Null
        Invoke-Step 'C#' { Invoke-Program dotnet @('format', 'FlashAttention.sln') } | Out-Null
    }
    'check' {
        Enter-CompilerEnvironment
        Assert-Dotnet
        Assert-Tool 'clang' 'winget install LLVM.LLVM'
        Assert-Tool 'clang-format' 'winget install LLVM.LLVM'
        Resolve-Cuda
        Invoke-Step 'format of C, C++, CUDA' { Format-Native @('--dry-run', '-Werror') } | Out-Null
        Invoke-Step 'native, warnings as errors' { Build-Native -Strict } | Out-Null
        Invoke-Step 'managed, warnings as errors' { Build-Managed } | Out-Null
        Invoke-Step 'format of C#' { Invoke-Program dotnet @('format', 'FlashAttention.sln', '--verify-no-changes', '--no-restore') } | Out-Null
        Invoke-Step 'bindings against headers' { Invoke-Generator @('verify', '--library', (Get-LibraryPath)) } | Out-Null
    }
    'pack' {
        Enter-CompilerEnvironment
        Assert-Dotnet
        Resolve-Cuda
        Invoke-Step 'native library' { Build-Native } | Out-Null
        Invoke-Step 'packages' { Build-Packages } | Out-Null
        Get-ChildItem artifacts/packages | ForEach-Object { Write-Host "  $($_.Name)" }
    }
    'bench' {
        Enter-CompilerEnvironment
        Assert-Dotnet
        Resolve-Cuda
        Invoke-Step 'native library' { Build-Native } | Out-Null
        Invoke-Step 'benchmarks' { Build-Managed 'tests/benchmarks/FlashAttention.Benchmarks' } | Out-Null
        & dotnet "$(Get-OutputFolder 'FlashAttention.Benchmarks')/FlashAttention.Benchmarks.dll" @Extra
        exit $LASTEXITCODE
    }
}
