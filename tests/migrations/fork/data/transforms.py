"""The views of an image."""

from torchvision import transforms
from torchvision.transforms import InterpolationMode


class TMEDinoTransforms:
    """One image to `[global_1, global_2, local_1, ..., local_N, global_3]`."""

    def __init__(self, global_crops_scale, local_crops_scale, n_local_crops, global_size=224, local_size=96):
        self.n_local_crops = n_local_crops
        bicubic = InterpolationMode.BICUBIC
        self.flip_and_color_jitter = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(p=0.5),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            ]
        )
        self.normalize = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        )

        # Global view 1: blur only
        self.global_1 = transforms.Compose(
            [
                transforms.RandomResizedCrop(global_size, scale=tuple(global_crops_scale), interpolation=bicubic),
                self.flip_and_color_jitter,
                transforms.GaussianBlur(3, (0.1, 0.15)),
                self.normalize,
            ]
        )

        # Global view 2: blur and solarize
        self.global_2 = transforms.Compose(
            [
                transforms.RandomResizedCrop(global_size, scale=tuple(global_crops_scale), interpolation=bicubic),
                self.flip_and_color_jitter,
                transforms.GaussianBlur(kernel_size=3, sigma=(0.1, 0.15)),
                transforms.RandomSolarize(threshold=64, p=0.5),
                self.normalize,
            ]
        )

        # Global view 3: an augmentation of its own for iBOT
        self.global_3 = transforms.Compose(
            [
                transforms.RandomResizedCrop(global_size, scale=tuple(global_crops_scale), interpolation=bicubic),
                transforms.RandomHorizontalFlip(p=0.5),
                transforms.RandomVerticalFlip(p=0.3),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                transforms.GaussianBlur(kernel_size=3, sigma=(0.1, 0.2)),
                self.normalize,
            ]
        )

        self.local = transforms.Compose(
            [
                transforms.RandomResizedCrop(local_size, scale=tuple(local_crops_scale), interpolation=bicubic),
                self.flip_and_color_jitter,
                self.normalize,
            ]
        )

    def __call__(self, x):
        crops = []
        crops.append(self.global_1(x))
        crops.append(self.global_2(x))
        for _ in range(self.n_local_crops):
            crops.append(self.local(x))
        crops.append(self.global_3(x))
        return crops
