#!/bin/bash
#SBATCH --job-name=tmedino
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4

# These repeat, and partly change, the defaults of main.py.
EPOCHS=100
TOKEN_MASK_RATIO=0.3

srun python main.py \
    --epochs $EPOCHS \
    --batch_size 64 \
    --token_mask_ratio $TOKEN_MASK_RATIO \
    --weight_decay_end 0.2 \
    --clip_grad 3.0
