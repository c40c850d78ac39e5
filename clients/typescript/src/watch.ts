/**
 * Passes on what comes from a stream. When nothing comes for so long while it is waited for, `expire` is called, which must
 * end the stream. The time that the receiver takes for an item does not count: then nobody reads.
 */
export async function* watch<T>(
  stream: AsyncIterable<T>,
  limitMs: () => number,
  expire: () => void,
): AsyncGenerator<T, void, undefined> {
  const items = stream[Symbol.asyncIterator]();
  for (;;) {
    const timer = setTimeout(expire, limitMs());
    let item: IteratorResult<T>;
    try {
      item = await items.next();
    } finally {
      clearTimeout(timer);
    }
    if (item.done) return;
    yield item.value;
  }
}
