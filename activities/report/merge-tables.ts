import type { GgufFile, MergedOnto, MergeOutput, ParityCheck } from '../../contracts/stages.js';
import { count, counted, percent, size } from './numbers.js';

/** A table as texts: a heading for each column, then the rows. */
export interface TextTable {
  head: readonly string[];
  rows: readonly (readonly string[])[];
}

const onto: Record<MergedOnto, string> = { original: 'the model\'s own weights', dequantized: 'the dequantised weights that were trained on' };

/** Which way of merging was kept, and why; undefined for results of earlier versions. */
export const mergeVerdict = ({ kept }: MergeOutput): string | undefined => kept && `The adapter is merged onto ${onto[kept.onto]}: ${kept.reason}.`;

/** What the figures of a merge mean. */
export const mergeMeaning = ({ measured }: MergeOutput): string | undefined =>
  measured &&
  `Measured on ${counted(measured.countedTokens, 'counted token')} of ${counted(measured.tokens, 'test token')}, as the files lie on the disk. KL is the mean divergence of the merged model's next-token distribution from that of the unmerged one (the base as it was trained on, with the adapter); agreement is how often both find the same token likeliest.`;

/** Both ways of merging beside the unmerged model; undefined when nothing was measured. */
export function mergeTable({ measured, kept }: MergeOutput): TextTable | undefined {
  if (!measured) return undefined;
  return {
    head: ['Merged onto', 'Loss', 'KL', 'Agreement', ''],
    rows: [
      ['nothing: base and adapter', measured.unmergedLoss.toFixed(4), '', '', ''],
      ...measured.ways.map((way) => [onto[way.onto], way.evalLoss.toFixed(4), small(way.kl), percent(way.agreement), way.onto === kept?.onto ? 'kept' : '']),
    ],
  };
}

/** The GGUF files and what llama.cpp found in them; undefined when there are none. */
export function ggufTable({ gguf }: MergeOutput): TextTable | undefined {
  if (!gguf || gguf.length === 0) return undefined;
  return {
    head: ['File', 'Type', 'Size', 'llama.cpp', 'KL', 'Agreement'],
    rows: gguf.map(({ file, type, check }) => [file.name, typeNames[type], size(file.bytes), parity(check), ...(check.state === 'not checked' ? ['', ''] : [small(check.kl), percent(check.agreement)])]),
  };
}

/** What a check by llama.cpp is; undefined when there was none. */
export function ggufMeaning({ gguf }: MergeOutput): string | undefined {
  const checked = gguf?.map(({ check }) => check).find((check) => check.state !== 'not checked');
  if (!checked) return undefined;
  return `llama.cpp answered ${counted(checked.prompts, 'prompt')} of this run greedily, and the engine read the same ${counted(checked.tokens, 'token')}: KL is the mean divergence of their next-token distributions, agreement how often both find the same token likeliest.`;
}

const typeNames: Record<GgufFile['type'], string> = { f16: 'F16', q8_0: 'Q8_0', q4_k_m: 'Q4_K_M', adapter: 'LoRA adapter' };

function parity(check: ParityCheck): string {
  if (check.state === 'not checked') return `not checked: ${check.reason}`;
  if (check.sameTokens < check.prompts) return `differs: ${count(check.prompts - check.sameTokens)} of ${counted(check.prompts, 'prompt')} cut into other tokens`;
  return check.state === 'agrees' ? 'agrees' : `differs: KL above ${check.tolerance}`;
}

const small = (value: number): string => (value === 0 ? '0' : value >= 0.001 ? value.toFixed(4) : value.toExponential(1));
