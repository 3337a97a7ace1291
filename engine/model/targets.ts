export { blockModules, type BlockModule } from '../formats/llama-config.js';
export { modulePath, modules, moduleShape, targetModules, type Module, type TargetModule } from '../formats/linear-modules.js';
