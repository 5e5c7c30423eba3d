/** A shared library that cannot be used: not installed, or too old. */
export class LibraryError extends Error {
  override readonly name = "LibraryError";
  readonly code = "library_unavailable";

  constructor(message: string, readonly remedy: string, options: ErrorOptions) {
    super(message, options);
  }
}

/** Where a library comes from. */
export interface LibrarySource {
  /** Sonames to try in turn. Bare names only: the dynamic linker then looks in system folders, never in the current one. */
  readonly sonames: readonly string[];
  /** Debian's and Ubuntu's package. */
  readonly package: string;
}

/**
 * Binds a library on first use. The function returned gives its symbols.
 *
 * @throws LibraryError from that function, naming the package to install
 */
export function library<const S extends Deno.ForeignLibraryInterface>(
  source: LibrarySource,
  symbols: S,
): () => Deno.DynamicLibrary<S>["symbols"] {
  let opened: Deno.DynamicLibrary<S>["symbols"] | undefined;
  return () => opened ??= open(source, symbols);
}

function open<S extends Deno.ForeignLibraryInterface>(
  source: LibrarySource,
  symbols: S,
): Deno.DynamicLibrary<S>["symbols"] {
  const causes: string[] = [];
  for (const soname of source.sonames) {
    try {
      return Deno.dlopen(soname, symbols).symbols;
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
      causes.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new LibraryError(
    `${source.sonames.join(" or ")} cannot be loaded`,
    `install the package ${source.package} (apt-get install ${source.package})`,
    { cause: causes.join("; ") },
  );
}
