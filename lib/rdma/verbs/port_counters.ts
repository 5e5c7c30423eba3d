import { readKernelFile } from "../../../ffi/kernel_file.ts";
import { SystemError } from "../../../ffi/libc.ts";

/** Folders of a port's counters: the driver's own, and those of the InfiniBand specification. */
const FOLDERS = ["hw_counters", "counters"] as const;

/** Counters of what should not be, of all drivers: each has names of its own. */
const errorName =
  /err|nak|out_of_seq|duplicate|icrc|discard|drop|violation|constraint|overrun|downed/i;

/** Work requests that ended with their queue pair: so does every session. */
const flushName = /flush/;

/**
 * What a port has counted of errors since its driver was loaded, by the kernel's names
 * (Documentation/ABI/stable/sysfs-class-infiniband of Linux). Those that cannot be read are left out.
 *
 * @param root where the kernel has its devices
 */
export function portErrorCounters(
  device: string,
  port: number,
  root = "/sys/class/infiniband",
): Record<string, number> {
  const counters = FOLDERS.flatMap((name) => {
    const folder = `${root}/${device}/ports/${port}/${name}`;
    return namesIn(folder).filter((counter) => errorName.test(counter) && !flushName.test(counter))
      .flatMap((counter) => read(folder, counter));
  });
  return Object.fromEntries(counters);
}

function namesIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** Some counters are there, and reading them fails with EINVAL as the device has them not. */
function read(folder: string, name: string): [name: string, value: number][] {
  try {
    const value = Number(readKernelFile(`${folder}/${name}`).trim());
    return Number.isSafeInteger(value) ? [[name, value]] : [];
  } catch (error) {
    if (error instanceof SystemError) return [];
    throw error;
  }
}
