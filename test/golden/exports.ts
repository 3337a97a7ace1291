/** Writes what exports.py loads:  npx tsx test/golden/exports.ts OUT */
import { selectBackend } from '../../engine/tensor/backends.js';
import { writeExports } from '../kit/exports.js';

await selectBackend();
await writeExports(process.argv[2]);
