import { add } from '@tensorflow/tfjs-core';
import { peftSavedName } from '../../formats/peft-adapter.js';
import { dequantize } from '../../tensor/frozen-weight.js';
import type { Variant } from './variant.js';

/** Embedding and head, trained in full: float32 copies, each of its own also where the base ties them. */
export const savedModules: Variant = ({ vocabSize, hiddenSize }, { modulesToSave = [] }) =>
  modulesToSave.map((module) => ({
    name: peftSavedName(module), shape: [vocabSize, hiddenSize],
    initial: ({ model }) => add(dequantize(module === 'lm_head' ? model().head : model().embedding), 0), // shares no data with the frozen one
  }));
