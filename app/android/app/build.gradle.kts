plugins {
    id("com.android.application")
}

val linked = findProject(":modelpack") != null

android {
    namespace = "org.proofmark.chat"
    compileSdk = 35
    ndkVersion = "27.2.12479018"

    defaultConfig {
        applicationId = "org.proofmark.chat"
        // 26 is the first with every call the runtime's thread pool makes, and a kernel with memfd_create.
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += "arm64-v8a" }
    }

    buildTypes {
        release { isMinifyEnabled = false }
    }

    // Stored, so that the model is mapped where it lies in the package.
    androidResources { noCompress += "pte" }

    packaging {
        jniLibs {
            // Stored and aligned to 16 KiB: mapped out of the package too.
            useLegacyPackaging = false
            // The gate's bytes are the bytes that ship.
            keepDebugSymbols += "**/*.so"
        }
    }

    if (linked) {
        // A bundle delivers the pack; a package for a developer's phone has no packs, so it carries the file itself.
        assetPacks += ":modelpack"
        sourceSets["debug"].assets.srcDir("../modelpack/src/main/assets")
    }
}
