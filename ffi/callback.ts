/**
 * A function for C to call, made when it is needed first. It lasts as long as the thread: what C has
 * it in may outlive whoever gave it away.
 *
 * @returns a function that gives its pointer
 */
export function lastingCallback<const Definition extends Deno.UnsafeCallbackDefinition>(
  definition: Definition,
  call: Deno.UnsafeCallbackFunction<Definition["parameters"], Definition["result"]>,
): () => Deno.PointerObject {
  let callback: Deno.UnsafeCallback<Definition> | undefined;
  return () => (callback ??= new Deno.UnsafeCallback<Definition>(definition, call)).pointer;
}
