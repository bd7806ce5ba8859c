#!/bin/sh
# Disassembles a guest image and fails on any instruction that is not known to run at ring 0 where KVM emulates it.
#
#   resources/check-image.sh IMAGE
#
# tzcnt is on the list, lzcnt is not: emulated, they act as bsf and bsr. Built without BMI, as an image is, the compiler
# writes tzcnt ("rep bsf") only where the operand is not zero, and then the two agree; lzcnt and bsr never do.
#
# The list is of what is known to work, so that an instruction nobody thought of fails as well. Notable absences: every
# SSE, AVX and x87 computation, cmpxchg16b, popcnt, lzcnt and the rest of BMI, rdtscp, xgetbv, xsave, int, int3,
# vmcall, syscall-like entries, stac and clac.
set -eu
image=${1:?usage: check-image.sh IMAGE}
objdump -d --no-show-raw-insn -M intel "$image" | awk '
BEGIN {
    split("mov movabs movzx movsx movsxd lea push pop pushf popf xchg xadd cmpxchg cmpxchg8b bswap " \
          "add sub adc sbb inc dec neg not and or xor cmp test mul imul div idiv shl shr sar sal rol ror rcl rcr shld shrd " \
          "bt bts btr btc bsf bsr tzcnt cbw cwde cdqe cwd cdq cqo lahf sahf cld std clc stc cmc " \
          "call ret jmp nop endbr64 pause lfence mfence sfence ud2 hlt cli sti in out leave retf retfq lret " \
          "iretq iret lgdt lidt ltr sgdt sidt str swapgs wrmsr rdmsr cpuid rdtsc invlpg wbinvd clts lmsw " \
          "clflush clflushopt prefetcht0 fxsave fxrstor fxsave64 fxrstor64 fninit fnstcw sysretq xlat data16 cs", names, " ")
    for (i in names) known[names[i]] = 1
    # Conditional forms, and string instructions with or without a prefix.
    n = split("a ae b be c e g ge l le na nae nb nbe nc ne ng nge nl nle no np ns nz o p pe po s z", cc, " ")
    for (i = 1; i <= n; i++) { known["j" cc[i]] = 1; known["set" cc[i]] = 1; known["cmov" cc[i]] = 1 }
    known["jrcxz"] = known["jecxz"] = known["loop"] = known["loope"] = known["loopne"] = 1
    n = split("movs stos lods scas cmps ins outs", strings, " ")
    for (i = 1; i <= n; i++) { known[strings[i]] = 1; known[strings[i] "b"] = known[strings[i] "w"] = known[strings[i] "d"] = known[strings[i] "q"] = 1 }
    n = split("rep repz repnz repe repne lock bnd notrack", prefixes, " ")
    for (i = 1; i <= n; i++) prefix[prefixes[i]] = 1
}
/^[0-9a-f]+ <.*>:$/ { where = $2 }
/^ *[0-9a-f]+:\t/ {
    count++
    field = 2
    while (prefix[$field]) field++
    name = $field
    bad = !known[name]
    # cr and dr moves are emulated; vector, x87, mask and segment-limit operands are not.
    if ($0 ~ /[^a-z](xmm|ymm|zmm|st\(|mm)[0-9]/) bad = 1
    if (bad) { print where " " $0; failures++ }
}
END {
    if (count < 100) { print "only " count + 0 " instructions found: is this an image?"; exit 2 }
    if (failures) { print failures " instructions are not known to be emulated at ring 0"; exit 1 }
    print count " instructions, all known to be emulated at ring 0"
}'
