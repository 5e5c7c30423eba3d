/** What a finished program leaves. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Path of a file beside this one. */
export function beside(name: string): string {
  return new URL(name, import.meta.url).pathname;
}

/** Runs a command to its end. */
export async function run(command: string, ...args: string[]): Promise<Finished> {
  const options = { args, stdin: "null", env: { NO_COLOR: "1" } } as const;
  const { code, stdout, stderr } = await new Deno.Command(command, options).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Runs the real program. */
export function verbseal(...args: string[]): Promise<Finished> {
  return run(Deno.execPath(), "run", "-A", "--no-check", beside("../../main.ts"), ...args);
}
