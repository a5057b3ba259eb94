#!/bin/bash
# programs.sh TOP LIBC-DEV LINUX-DEV: in an empty folder, runs Python with numpy, gcc with what it
# compiled, and git, from the closure TOP in /nix/store, which is one farm of links.
set -eu
top=$1 libc=$2 linux=$3
export PATH=$top/bin HOME=$PWD PYTHONDONTWRITEBYTECODE=1
lib=$top/lib/x86_64-linux-gnu gcc=$top/lib/gcc/x86_64-linux-gnu/12

PYTHONPATH=$top/lib/python3/dist-packages LD_LIBRARY_PATH=$lib/blas:$lib/lapack \
  python3.11 -c 'import numpy; print("numpy", numpy.ones(3).sum())'

printf '#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n' >hello.c
gcc -nostdinc -isystem $gcc/include -isystem $libc/include -isystem $libc/include/x86_64-linux-gnu \
  -isystem $linux/include -B$gcc/ -B$top/bin/ -B$lib/ -L$lib -o hello hello.c
./hello

git --version
