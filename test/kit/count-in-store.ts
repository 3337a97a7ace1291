/** A process that counts a store's `counter` up N times by compare-and-swap: arguments ROOT N. */
import { openStore } from '../../store/open-store.js';

const [root, times] = process.argv.slice(2);
const store = openStore(root!);
for (let done = 0; done < Number(times); ) {
  const { bytes, etag } = (await store.read('counter'))!;
  if (await store.replace('counter', Buffer.from(String(Number(bytes.toString()) + 1)), etag)) done++;
}
