/** Whether the guest's kernel can seal records (kTLS): with its module tls it can. */
import { eventually } from "../program.ts";

/** Names what the kernel runs to load a module; when empty, it loads none (proc(5)). */
const LOADER = "/proc/sys/kernel/modprobe";

/** What runs while this is there has no kernel TLS. Disposing it brings the kernel's TLS back. */
export class WithoutKernelTls implements AsyncDisposable {
  private constructor(private readonly loader: string) {}

  /** Takes the module out, and keeps the kernel from loading it for root's sockets that ask for it. */
  static async begin(): Promise<WithoutKernelTls> {
    const without = new WithoutKernelTls(await Deno.readTextFile(LOADER));
    await Deno.writeTextFile(LOADER, "\n");
    // Connections that were closed a moment ago may still hold it.
    await eventually("the module tls is unloaded", () => modprobe("-r", "tls"), 10_000);
    return without;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The module itself has others loaded, for its ciphers.
    await Deno.writeTextFile(LOADER, this.loader);
    if (!await modprobe("tls")) throw new Error("the kernel has no module tls");
  }
}

async function modprobe(...args: string[]): Promise<boolean> {
  const { success } = await new Deno.Command("modprobe", { args, stderr: "null" }).output();
  return success;
}
