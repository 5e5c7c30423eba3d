import { LibraryError } from "../../../ffi/library.ts";
import { RdmaError } from "../../errors.ts";

/**
 * Uses what needs a native library.
 *
 * @throws RdmaError naming the package to install when the library is missing
 */
export function withLibraries<T>(use: () => T): T {
  try {
    return use();
  } catch (error) {
    if (!(error instanceof LibraryError)) throw error;
    throw new RdmaError(error.code, error.message, error.remedy, { cause: error });
  }
}
