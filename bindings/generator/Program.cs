using FlashAttention.BindingGenerator;
using FlashAttention.BindingGenerator.Clang;
using FlashAttention.BindingGenerator.Emit;
HeaderSet h = new(RepositoryPaths.Find().Header);
var api = HeaderParser.Parse(h);
Directory.CreateDirectory(RepositoryPaths.Find().Output);
foreach (var (n, t) in CSharpEmitter.Emit(api, new EmitOptions(h.Display(h.Header)))) File.WriteAllText(Path.Combine(RepositoryPaths.Find().Output, n), t);
