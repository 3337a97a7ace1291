import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { WorkerProcess } from '../infra/dev/stack.js';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The command line that runs a TypeScript file of this repository. */
export const typeScript = (file: string): { command: string; args: string[] } => ({
  command: process.execPath,
  args: ['--import', import.meta.resolve('tsx'), join(root, file)],
});

/** The workers of a development stack. */
export const workerProcesses: WorkerProcess[] = [
  { name: 'orchestrator', ...typeScript('workers/orchestrator.ts') },
  { name: 'gpu', ...typeScript('workers/gpu.ts') },
];
