import type { LlamaConfig } from '../llama-config.js';
import { flag, optionalCount, type ArchitectureFacts, type Json } from './architecture.js';

/** transformers' two words in `layer_types`. */
const kinds = ['full_attention', 'sliding_attention'];

/**
 * The sliding window of families in which only some layers have it. `layer_types` names them; without it they are those for which
 * `slides` is true.
 */
export function readSlidingLayers(json: Json, problems: string[], slides: (layer: number) => boolean): Pick<ArchitectureFacts, 'slidingWindow'> {
  const size = optionalCount(json, 'sliding_window', problems);
  if (!flag(json, 'use_sliding_window', problems) || size === undefined) return {};
  const count = Number(json.num_hidden_layers);
  const types = json.layer_types ?? undefined;
  if (types !== undefined && !(Array.isArray(types) && types.length === count && types.every((type) => kinds.includes(type)))) {
    problems.push(`layer_types: expected ${count} of ${kinds.join(', ')}, got ${JSON.stringify(types).slice(0, 80)}`);
    return {};
  }
  const layers = Array.from({ length: count }, (_, layer) => layer).filter((layer) => (types ? types[layer] === kinds[1] : slides(layer)));
  return layers.length > 0 ? { slidingWindow: { size, layers } } : {};
}

/** The keys that say it again; `max_window_layers` is for versions of transformers that know no `layer_types`. */
export function writeSlidingLayers({ slidingWindow, layers }: LlamaConfig): Json {
  const sliding = new Set(slidingWindow ? (slidingWindow.layers ?? Array.from({ length: layers }, (_, layer) => layer)) : []);
  return {
    use_sliding_window: sliding.size > 0,
    sliding_window: slidingWindow?.size ?? null,
    max_window_layers: Math.min(layers, ...sliding),
    layer_types: Array.from({ length: layers }, (_, layer) => kinds[Number(sliding.has(layer))]),
  };
}
