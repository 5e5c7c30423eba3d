/** /proc counts in ticks of this length for programs on every Linux (USER_HZ). */
const TICKS_PER_SECOND = 100;

/** Seconds of processor that all threads of a process have had so far, in user space and the kernel. */
export function cpuSeconds(pid: number): number {
  return parseCpuSeconds(Deno.readTextFileSync(`/proc/${pid}/stat`));
}

/** Reads utime and stime, fields 14 and 15 of /proc/PID/stat (proc(5)). */
export function parseCpuSeconds(stat: string): number {
  // The program's name, field 2, may hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
