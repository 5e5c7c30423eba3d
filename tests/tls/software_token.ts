import { assertEquals } from "@std/assert";
import type { Identity } from "../../lib/tls/trust.ts";
import type { PemFile } from "../../lib/tls/pem_files.ts";
import { writeFiles } from "../../lib/tls/pem_files.ts";

/** The PKCS #11 module of Debian's softhsm2. */
const modulePath = "/usr/lib/softhsm/libsofthsm2.so";

/** A token of SoftHSM below a folder, with keys by their labels. */
export class SoftwareToken {
  static readonly pin = "27182818";

  private constructor(readonly folder: string) {}

  static async create(folder: string): Promise<SoftwareToken> {
    const token = new SoftwareToken(folder);
    await Deno.mkdir(`${folder}/tokens`);
    await writeFiles(folder, [
      token.#file("softhsm2.conf", `directories.tokendir = ${folder}/tokens\nlog.level = ERROR\n`),
      token.#file("pin", `${SoftwareToken.pin}\n`),
      token.#file("wrong_pin", "31415926\n"),
    ], { overwrite: false });
    const pins = ["--pin", SoftwareToken.pin, "--so-pin", "16180339"];
    await token.#run("--init-token", "--free", "--label", "verbseal test", ...pins);
    return token;
  }

  /** What a process that uses the token needs in its environment before it does. */
  get environment(): Record<string, string> {
    return { SOFTHSM2_CONF: `${this.folder}/softhsm2.conf` };
  }

  /** Puts a key into the token, and its certificate into a file, whose path is returned. */
  async take(label: string, id: string, { certificate, key }: Identity): Promise<string> {
    const files = [this.#file(`${label}.pem`, certificate), this.#file(`${label}.key`, key)];
    await writeFiles(this.folder, files, { overwrite: false });
    const [{ path: certificateFile }, { path: keyFile }] = files as [PemFile, PemFile];
    const names = ["--token", "verbseal test", "--label", label, "--id", id];
    await this.#run("--import", keyFile, ...names, "--pin", SoftwareToken.pin);
    await Deno.remove(keyFile);
    return certificateFile;
  }

  /** URI of a key, with `pin-source` unless told otherwise. */
  uri(label: string, { token = "verbseal%20test", query = this.pinSource("pin") } = {}): string {
    const name = `pkcs11:token=${token};object=${label};type=private`;
    return `${name}?module-path=${modulePath}${query && "&"}${query}`;
  }

  /** What names a file beside the token as that with the PIN. */
  pinSource(name: string): string {
    return `pin-source=file:${this.folder}/${name}`;
  }

  #file(name: string, text: string): PemFile {
    return { path: `${this.folder}/${name}`, text, mode: 0o600 };
  }

  async #run(...args: string[]): Promise<void> {
    const { stderr, success } = await new Deno.Command("softhsm2-util", {
      args,
      env: this.environment,
    }).output();
    assertEquals(success, true, new TextDecoder().decode(stderr));
  }
}
