/** How Linux names the instructions for AES in /proc/cpuinfo: under flags on x86, under Features on arm64. */
const aes = /^(?:flags|Features)\s*:.*\baes\b/m;

/**
 * Whether the processor has instructions for AES. Without them AES is slow, and its time tells of
 * the key where it is done with tables.
 *
 * @param cpuinfo a parameter for tests; /proc/cpuinfo unless told
 */
export function hasAesInstructions(cpuinfo?: string): boolean {
  return aes.test(cpuinfo ?? Deno.readTextFileSync("/proc/cpuinfo"));
}
