export { fineTune } from './fine-tune.js';
