#!/usr/bin/env -S MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072 node --single-threaded-gc
// What can only be said before Node.js runs (measured: test/bench/RESULTS.md, memory and disk):
// - glibc gives every thread heaps of its own, and once it has freed something large keeps all that is smaller there. With a fixed threshold large buffers go back
//   to the system. Other libraries of C do not know the names.
// - The heaps here are small: a collector with helpers on every core costs more than it saves.
import '../dist/program/main.js';
