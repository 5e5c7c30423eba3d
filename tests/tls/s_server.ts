import { idle } from "../../ffi/epoll.ts";

/** Where it listens. */
export const hostname = "127.0.0.1";

/**
 * Runs `openssl s_server` with `server.pem` and `server.key` of a folder for as long as a test takes.
 *
 * @param options further ones
 * @param test is given the port, and how to type what it obeys (CONNECTED COMMANDS of openssl-s_server(1))
 */
export async function serving(
  folder: string,
  options: readonly string[],
  test: (port: number, type: (text: string) => Promise<void>) => Promise<void>,
): Promise<void> {
  const child = new Deno.Command("openssl", {
    args: ["s_server", "-accept", `${hostname}:0`, ...options]
      .concat("-cert", `${folder}/server.pem`, "-key", `${folder}/server.key`),
    stdin: "piped", // it ends when that does
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const output = child.stdout.getReader();
  const input = child.stdin.getWriter();
  try {
    await test(await portOf(output), (text) => input.write(new TextEncoder().encode(text)));
  } finally {
    child.kill();
    await Promise.all([input.close(), output.cancel(), child.status]);
    await idle();
  }
}

/** The port that it says it listens on. */
async function portOf(output: ReadableStreamDefaultReader<Uint8Array>): Promise<number> {
  for (let text = "";;) {
    const { value, done } = await output.read();
    if (done) throw new Error(`openssl s_server ended: ${text}`);
    text += new TextDecoder().decode(value);
    const found = /^ACCEPT .*:(\d+)\n/m.exec(text);
    if (found) return Number(found[1]);
  }
}
