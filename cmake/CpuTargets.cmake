# Instruction sets of the CPU kernels: src/cpu/kernels/*.cpp are compiled once per set; src/cpu picks one at run time.
