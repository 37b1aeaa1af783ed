"""The backbone."""

from port.models import DinoVisionTransformer


def build_vit(args, drop_path_rate):
    return DinoVisionTransformer(
        img_size=args.global_crops_size,
        patch_size=args.patch_size,
        embed_dim=args.embed_dim,
        depth=args.depth,
        num_heads=args.num_heads,
        mlp_ratio=args.mlp_ratio,
        drop_path_rate=drop_path_rate,
        drop_path_uniform=True,
        init_values=args.layerscale,
        ffn_layer=args.ffn_layer,
        block_chunks=args.block_chunks,
        num_register_tokens=args.num_register_tokens,
    )
