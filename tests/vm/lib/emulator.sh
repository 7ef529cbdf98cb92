# shellcheck shell=bash
# QEMU: with KVM where it works, else by emulation.

# /dev/kvm may exist and still not work, so a kernel is booted with a time limit. It panics at once, having no root:
# reaching that is the proof. The answer is kept.
probe_accelerator() {
  local console=$VM_DIR/kvm-probe.console answer=tcg
  if [ -e /dev/kvm ]; then
    # In a shell of its own, which does not announce that QEMU was aborted.
    (timeout 20 qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 512 -nodefaults -display none -no-reboot -serial "file:$console" \
      -kernel "$(kernel_dir stable)/vmlinuz" -append 'console=ttyS0 panic=-1' </dev/null >"$VM_DIR/kvm-probe.log" 2>&1 || true) 2>/dev/null
    if grep -aq 'Kernel panic' "$console"; then answer=kvm; fi
  fi
  printf '%s\n' "$answer" >"$VM_DIR/accelerator"
  say "set-up: guests run with $answer"
}

is_emulated() { [ "$(cat "$VM_DIR/accelerator" 2>/dev/null)" = tcg ]; }

# How many times longer things may take than on a machine of its own: limits are there to end a hang, not to measure.
patience() {
  if is_emulated; then echo 5; else echo 1; fi
}

accelerator_options() {
  if [ "$(cat "$VM_DIR/accelerator")" = kvm ]; then
    printf '%s' '-accel kvm -cpu host'
  else
    # One host thread for both processors: with a thread each, a kernel that patches its own code while it boots was seen to
    # run half of an instruction, and to panic. Guests run side by side instead.
    # Less of a processor is more of one here: the fifth level of page tables and SMAP make each miss of the emulated TLB dearer, and where
    # `rep movsb` is told to be fast, kernel and C library copy byte by byte.
    printf '%s' "-accel tcg,thread=${TCG_THREADS:-single} -cpu max,la57=off,smap=off,erms=off,fsrm=off"
  fi
}

# What the kernel of an emulated guest is told besides. QEMU 7 translates code anew for each address at which it finds it, so a program that
# is somewhere else each time it is started is translated each time; and pages that are cleared when they are taken cost as much as all else
# that is done with them. With both, a scenario takes half of the processor time.
accelerator_append() {
  if is_emulated; then echo 'norandmaps nokaslr init_on_alloc=0'; fi
}
