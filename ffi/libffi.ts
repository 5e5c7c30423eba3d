import { addressOf, pointerOf } from "./layout.ts";
import { library } from "./library.ts";

/** libffi: calls function pointers, as those in `ibv_context.ops`, in a twentieth of the time of Deno.UnsafeFnPointer. */
export const libffi = library({ sonames: ["libffi.so.8", "libffi.so.7"], package: "libffi8" }, {
  ffi_prep_cif: {
    parameters: [
      "pointer", // ffi_cif *cif
      "u32", // ffi_abi abi
      "u32", // unsigned int nargs
      "pointer", // ffi_type *rtype
      "pointer", // ffi_type **atypes
    ],
    result: "u32",
  },
  ffi_call: {
    parameters: [
      "pointer", // ffi_cif *cif
      "pointer", // void (*fn)(void)
      "pointer", // void *rvalue
      "pointer", // void **avalue
    ],
    result: "void",
  },
});

/** FFI_DEFAULT_ABI: FFI_UNIX64 on x86-64, FFI_SYSV on arm64. */
export const FFI_DEFAULT_ABI = Deno.build.arch === "x86_64" ? 2 : 1;

/** Bytes kept for an ffi_cif: the largest of the platforms, rounded up. */
export const FFI_CIF_SIZE = 64;

/** ffi_type {size_t size; unsigned short alignment, type; ffi_type **elements} of the two types used. */
export const FFI_TYPES = {
  pointer: { size: 8, alignment: 8, type: 14 },
  sint32: { size: 4, alignment: 4, type: 10 },
} as const;

const ffiTypes = {
  pointer: ffiType(FFI_TYPES.pointer),
  sint32: ffiType(FFI_TYPES.sint32),
};

function ffiType(of: { size: number; alignment: number; type: number }): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(24));
  view.setBigUint64(0, BigInt(of.size), true);
  view.setUint16(8, of.alignment, true);
  view.setUint16(10, of.type, true);
  return view;
}

/**
 * A function pointer that returns int, with its arguments in memory that stays where it is:
 * a call allocates nothing. Set the arguments that change, then call.
 */
export class FunctionCall {
  readonly #function: Deno.PointerObject;
  readonly #cif: Deno.PointerObject;
  readonly #values: Uint32Array<ArrayBuffer>;
  readonly #valueList: Deno.PointerObject;
  readonly #result: Int32Array<ArrayBuffer>;
  readonly #resultPointer: Deno.PointerObject;
  readonly #ffi_call = libffi().ffi_call;

  constructor(
    functionPointer: Deno.PointerObject,
    parameters: readonly (keyof typeof ffiTypes)[],
  ) {
    // One buffer holds all that libffi keeps pointers to: the cif, the list of types, the list of
    // the values' addresses, the values, the result. It lives as long as this object.
    const count = parameters.length;
    const list = 8 * count;
    const memory = new ArrayBuffer(FFI_CIF_SIZE + 3 * list + 8);
    const types = new BigUint64Array(memory, FFI_CIF_SIZE, count);
    const valueList = new BigUint64Array(memory, FFI_CIF_SIZE + list, count);
    this.#values = new Uint32Array(memory, FFI_CIF_SIZE + 2 * list, 2 * count);
    this.#result = new Int32Array(memory, FFI_CIF_SIZE + 3 * list, 2);
    const firstValue = addressOf(pointerOf(this.#values));
    parameters.forEach((name, index) => {
      types[index] = addressOf(pointerOf(ffiTypes[name]));
      valueList[index] = firstValue + 8n * BigInt(index);
    });
    this.#function = functionPointer;
    this.#cif = pointerOf(new Uint8Array(memory));
    this.#valueList = pointerOf(valueList);
    this.#resultPointer = pointerOf(this.#result);
    const status = libffi().ffi_prep_cif(
      this.#cif,
      FFI_DEFAULT_ABI,
      count,
      pointerOf(ffiTypes.sint32),
      pointerOf(types),
    );
    if (status !== 0) throw new Error(`ffi_prep_cif failed with status ${status}`);
  }

  /** Sets argument `index` to an address (below 2^53) or a non-negative int. */
  set(index: number, value: number): this {
    this.#values[2 * index] = value;
    this.#values[2 * index + 1] = value / 0x1_0000_0000;
    return this;
  }

  /** Calls, and returns the int that the function returned. */
  call(): number {
    this.#ffi_call(this.#cif, this.#function, this.#resultPointer, this.#valueList);
    return this.#result[0]!;
  }
}
