import { createHash } from 'node:crypto';
import type { FineTuneInput } from '../contracts/fine-tune-config.js';

/** `finetune-quickstart-1a2b3c4d`: the run's name and its configuration's digest, so that the same configuration is the same run. */
export function workflowId(config: FineTuneInput): string {
  // Whether results are reused says how to run, not what.
  const what = JSON.stringify(sorted({ ...config, reuse: undefined }));
  return `finetune-${config.name}-${createHash('sha256').update(what).digest('hex').slice(0, 8)}`;
}

const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, field]) => [key, sorted(field)]));
};
