import { idle } from "../../ffi/epoll.ts";

/** Where it listens. */
export const hostname = "127.0.0.1";

/**
 * Runs `openssl s_server` with `server.pem` and `server.key` of a folder for as long as a test takes.
 *
 * @param options further ones
 */
export async function serving(
  folder: string,
  options: readonly string[],
  test: (port: number) => Promise<void>,
): Promise<void> {
  const free = Deno.listen({ hostname, port: 0 });
  const { port } = free.addr;
  free.close();
  const child = new Deno.Command("openssl", {
    args: ["s_server", "-accept", `${hostname}:${port}`, ...options]
      .concat("-cert", `${folder}/server.pem`, "-key", `${folder}/server.key`),
    stdin: "piped", // it ends when that does
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const output = child.stdout.getReader();
  // It says ACCEPT when it listens.
  for (let text = ""; !text.includes("ACCEPT");) {
    const { value, done } = await output.read();
    if (done) throw new Error(`openssl s_server ended: ${text}`);
    text += new TextDecoder().decode(value);
  }
  try {
    await test(port);
  } finally {
    child.kill();
    await Promise.all([child.stdin.close(), output.cancel(), child.status]);
    await idle();
  }
}
