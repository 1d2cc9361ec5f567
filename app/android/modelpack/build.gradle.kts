plugins {
    id("com.android.asset-pack")
}

assetPack {
    packName = "modelpack"
    // There when the app starts for the first time, and mapped in place.
    dynamicDelivery { deliveryType = "install-time" }
}
