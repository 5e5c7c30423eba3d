import manifest from "../../deno.json" with { type: "json" };

/** Version of this program, as `verbseal --version` prints it. */
export const version: string = manifest.version;
