/**
 * C structures as TypeScript sees them: each field has an offset and a type, written down once.
 * tests/ffi/layout_test.ts compiles a C program that compares every size and offset with the headers.
 */

/** Type of a field; `{ bytes: n }` is an array of n octets. All integers are little-endian, as on x86-64 and arm64. */
export type FieldType = "u8" | "u16" | "u32" | "i32" | "u64" | "pointer" | {
  readonly bytes: number;
};

/** Offset in bytes and type. */
export type Field = readonly [offset: number, type: FieldType];

type Fields = Readonly<Record<string, Field>>;

/** What a field holds in TypeScript: 64-bit integers and addresses are bigint. */
export type FieldValue<T extends Field> = T[1] extends "u64" | "pointer" ? bigint
  : T[1] extends { readonly bytes: number } ? Uint8Array
  : number;

/** One structure in memory. Not for the per-message path: that uses the offsets with its own views. */
export class Struct<F extends Fields> {
  readonly #fields: F;
  readonly #view: DataView<ArrayBuffer>;

  constructor(fields: F, view: DataView<ArrayBuffer>) {
    this.#fields = fields;
    this.#view = view;
  }

  /** Address of the structure, for a call into C. Valid while this object is reachable. */
  get pointer(): Deno.PointerObject {
    return pointerOf(this.#view);
  }

  get<K extends keyof F & string>(name: K): FieldValue<F[K]>;
  get(name: string): number | bigint | Uint8Array {
    const [offset, type] = this.#fields[name]!;
    switch (type) {
      case "u8":
        return this.#view.getUint8(offset);
      case "u16":
        return this.#view.getUint16(offset, true);
      case "u32":
        return this.#view.getUint32(offset, true);
      case "i32":
        return this.#view.getInt32(offset, true);
      case "u64":
      case "pointer":
        return this.#view.getBigUint64(offset, true);
      default:
        return new Uint8Array(this.#view.buffer, this.#view.byteOffset + offset, type.bytes);
    }
  }

  set<K extends keyof F & string>(name: K, value: FieldValue<F[K]>): this;
  set(name: string, value: number | bigint | Uint8Array): this {
    const [offset, type] = this.#fields[name]!;
    switch (type) {
      case "u8":
        this.#view.setUint8(offset, value as number);
        break;
      case "u16":
        this.#view.setUint16(offset, value as number, true);
        break;
      case "u32":
        this.#view.setUint32(offset, value as number, true);
        break;
      case "i32":
        this.#view.setInt32(offset, value as number, true);
        break;
      case "u64":
      case "pointer":
        this.#view.setBigUint64(offset, value as bigint, true);
        break;
      default:
        new Uint8Array(this.#view.buffer, this.#view.byteOffset + offset, type.bytes)
          .set(value as Uint8Array);
    }
    return this;
  }
}

/** A C structure's name, size in bytes, and fields; nested fields are named as in C, with dots. */
export class StructLayout<F extends Fields> {
  constructor(readonly name: string, readonly size: number, readonly fields: F) {}

  /** Offset of a field in bytes. */
  offset(field: keyof F & string): number {
    return this.fields[field]![0];
  }

  /** A new zeroed structure in memory of ours. */
  allocate(): Struct<F> {
    return new Struct(this.fields, new DataView(new ArrayBuffer(this.size)));
  }

  /** The structure that C keeps at `pointer`; it must outlive the result. */
  at(pointer: Deno.PointerObject): Struct<F> {
    const buffer = Deno.UnsafePointerView.getArrayBuffer(pointer, this.size) as ArrayBuffer;
    return new Struct(this.fields, new DataView(buffer));
  }

  /** The structure that `bytes` hold, starting at `offset`. */
  over(bytes: Uint8Array<ArrayBuffer>, offset = 0): Struct<F> {
    return new Struct(
      this.fields,
      new DataView(bytes.buffer, bytes.byteOffset + offset, this.size),
    );
  }
}

/** Declares a structure. */
export function struct<const F extends Fields>(
  name: string,
  size: number,
  fields: F,
): StructLayout<F> {
  return new StructLayout(name, size, fields);
}

/** Address of a view's first byte. The view must be over memory that does not move: any ArrayBuffer of its own. */
export function pointerOf(view: ArrayBufferView<ArrayBuffer>): Deno.PointerObject {
  return Deno.UnsafePointer.of(view)!;
}

/** The pointer that an address field holds; null for address 0. */
export function pointerAt(address: bigint): Deno.PointerValue {
  return Deno.UnsafePointer.create(address);
}

/** The address of a pointer, as an address field holds it. */
export function addressOf(pointer: Deno.PointerValue): bigint {
  return BigInt(Deno.UnsafePointer.value(pointer));
}

/** A string as C wants it: UTF-8, with a zero at its end. Throws TypeError when the text itself has one. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) throw new TypeError("a string for C must not contain a zero byte");
  return new TextEncoder().encode(`${text}\0`);
}

/** The text of a C string of at most `bytes` octets inside `field`. */
export function textOf(field: Uint8Array): string {
  const end = field.indexOf(0);
  return new TextDecoder().decode(field.subarray(0, end < 0 ? field.length : end));
}
