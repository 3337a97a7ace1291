/** A process that is killed in the middle of an upload: arguments BUCKET FILE OPTIONS. */
import { openStore } from '../../store/open-store.js';

const [bucket, file, options] = process.argv.slice(2);
await openStore(`s3://${bucket}`, { s3: JSON.parse(options!) as object }).putFileAt('big', file!, 'application/octet-stream', {
  onProgress: () => process.kill(process.pid, 'SIGKILL'),
});
