import { join } from "node:path";

/**
 * Path of Verbseal's own directory `part` in the user's cache, for things that are costly to fetch.
 * Made if it is not there.
 */
export async function cacheDirectory(part: string): Promise<string> {
  const base = Deno.env.get("XDG_CACHE_HOME") || join(Deno.env.get("HOME") || "/root", ".cache");
  const directory = join(base, "verbseal", part);
  await Deno.mkdir(directory, { recursive: true });
  return directory;
}
